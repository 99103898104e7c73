-- KEYS  queues by the time at which they were last consumed          ARGV  seconds, prefix of queues' keys, queues
-- In one step, so that no queue goes whose worker is just starting.
local now = tonumber(redis.call('TIME')[1])
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], now, ARGV[i]) end
redis.call('EXPIRE', KEYS[1], 2 * ARGV[1])
local left = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
for _, queue in ipairs(left) do redis.call('UNLINK', ARGV[2] .. queue, ARGV[2] .. 'sharing:' .. queue) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
