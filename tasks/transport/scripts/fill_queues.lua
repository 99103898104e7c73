-- KEYS  a detached job's hash          ARGV  prefix of all keys, job's id, queues
-- What is staged for these queues becomes the job's backlog, in the place of any other, and begins to leave. Of a job
-- that is over nothing is kept; where nothing is staged, as when this comes a second time, the backlog stays.
-- include refill
-- include leave_queues
local job, prefix, id, queues = KEYS[1], ARGV[1], ARGV[2], {unpack(ARGV, 3)}
local state, ttl = unpack(redis.call('HMGET', job, 'state', 'ttl'))
local staged = {}
for _, queue in ipairs(queues) do
    if redis.call('EXPIRE', job .. ':staged:' .. queue, ttl or 1) == 1 then table.insert(staged, queue) end
end
if state ~= 'running' then
    for _, queue in ipairs(staged) do redis.call('UNLINK', job .. ':staged:' .. queue) end
elseif #staged > 0 then
    leave_queues(prefix, id)
    for _, queue in ipairs(staged) do
        redis.call('RENAME', job .. ':staged:' .. queue, job .. ':backlog:' .. queue)
        redis.call('HSET', job, 'in_queue:' .. queue, 0)
    end
    redis.call('HSET', job, 'queues', table.concat(staged, ' '))
    for _, queue in ipairs(staged) do refill(prefix, id, queue) end
end
