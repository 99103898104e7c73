-- KEYS  unacked, job, answers, deliveries
-- ARGV  tag of the delivery, chunk, seconds that `deliveries` lives, a count; so many fields of deliveries; fields of job
-- Gives how often the chunk was begun, this time included; 0 where nobody wants it, -1 where this server does not hold the
-- delivery; then the fields of the job.
-- A chunk of a detached job may have been sent twice; any other's first answer ends nothing.
local unacked, job, answers, deliveries = unpack(KEYS)
local tag, index, ttl, noted = unpack(ARGV)
if redis.call('HEXISTS', unacked, tag) == 0 then return {-1} end
local fields = redis.call('HMGET', job, 'state', unpack(ARGV, 5 + noted))
if fields[1] ~= 'running' or redis.call('HEXISTS', answers, index) == 1 then
    redis.call('HDEL', deliveries, unpack(ARGV, 5, 4 + noted))
    return {0}
end
-- Before work begins: who dies with the chunk cannot count it.
fields[1] = redis.call('HINCRBY', deliveries, index, 1)
redis.call('EXPIRE', deliveries, ttl)
return fields
