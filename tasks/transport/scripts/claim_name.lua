-- KEYS  a name's hash          ARGV  owner, seconds that it claims the name, seconds to keep the name, fields and values
-- Claims the name, or for no seconds gives it back, unless another's claim still stands. Gives who has it now.
local now = tonumber(redis.call('TIME')[1])
local owner, claimed_until = unpack(redis.call('HMGET', KEYS[1], 'owner', 'claimed_until'))
if owner and owner ~= ARGV[1] and tonumber(claimed_until) > now then return owner end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'claimed_until', now + ARGV[2], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[3])
return ARGV[1]
