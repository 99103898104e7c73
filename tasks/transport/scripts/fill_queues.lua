-- KEYS  a detached job's hash          ARGV  prefix of all keys, job's id, queues
-- What is staged for these queues becomes the job's backlog, in the place of any other, and begins to leave. Of a job
-- that is over nothing is kept.
-- include refill
-- include leave_queues
local job, prefix, id = KEYS[1], ARGV[1], ARGV[2]
local state, ttl = unpack(redis.call('HMGET', job, 'state', 'ttl'))
local is_running, queues = state == 'running', {unpack(ARGV, 3)}
if is_running then leave_queues(prefix, id) end
for _, queue in ipairs(queues) do
    local staged, backlog = job .. ':staged:' .. queue, job .. ':backlog:' .. queue
    if not is_running then
        redis.call('UNLINK', staged)
    elseif redis.call('LLEN', staged) > 0 then
        redis.call('RENAME', staged, backlog)
        redis.call('EXPIRE', backlog, ttl)
        redis.call('HSET', job, 'in_queue:' .. queue, 0)
    end
end
if is_running then
    redis.call('HSET', job, 'queues', table.concat(queues, ' '))
    for _, queue in ipairs(queues) do refill(prefix, id, queue) end
end
