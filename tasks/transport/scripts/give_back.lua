-- KEYS  unacked, unacked_index, the lists that the message goes to      ARGV  tag, RPUSH or LPUSH, message
-- What a script writes after it has removed something is let through by a Redis that has no memory left.
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
    for list = 3, #KEYS do redis.call(ARGV[2], KEYS[list], ARGV[3]) end
end
