-- KEYS  a job's deliveries          ARGV  chunk, name of its field, value
-- Of a chunk that was answered meanwhile nothing is noted: nobody would remove it.
local key, index, name, value = KEYS[1], unpack(ARGV)
if redis.call('HEXISTS', key, index) == 0 then return end
redis.call('HSET', key, index .. ':' .. name, value)
if name == 'bad' then redis.call('HDEL', key, index .. ':at', index .. ':why') end
