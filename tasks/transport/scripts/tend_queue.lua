-- KEYS  sharing of a queue          ARGV  prefix of all keys, queue, worker, its slots, seconds that it counts
-- A worker lives: chunks of detached jobs leave whose turn it is, though none was answered. Gives how many chunks wait,
-- in the queue or for their turn.
-- include refill
local sharing, prefix, queue, worker, slots, ttl = KEYS[1], unpack(ARGV)
redis.call('HSET', sharing, 'worker:' .. worker, slots .. ' ' .. (redis.call('TIME')[1] + ttl))
redis.call('EXPIRE', sharing, 7 * 86400)
local waiting = 0
for _, name in ipairs(redis.call('HKEYS', sharing)) do
    local id = string.match(name, '^job:(.+)$')
    if id then
        local state, queues = unpack(redis.call('HMGET', prefix .. 'job:' .. id, 'state', 'queues'))
        if state ~= 'running' then
            redis.call('HDEL', sharing, name)
        elseif queues then
            refill(prefix, id, queue)
            waiting = waiting + redis.call('LLEN', prefix .. 'job:' .. id .. ':backlog:' .. queue)
        end
    end
end
return waiting + redis.call('LLEN', prefix .. queue)
