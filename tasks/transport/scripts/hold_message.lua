-- KEYS  unacked, unacked_index          ARGV  time, tag, message as kombu keeps it, tags that are acknowledged
local unacked, index = KEYS[1], KEYS[2]
redis.call('ZADD', index, ARGV[1], ARGV[2])
redis.call('HSET', unacked, ARGV[2], ARGV[3])
if #ARGV > 3 then
    redis.call('ZREM', index, unpack(ARGV, 4))
    redis.call('HDEL', unacked, unpack(ARGV, 4))
end
