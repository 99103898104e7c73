-- KEYS  a name's hash          ARGV  prefix of the keys of jobs, id of a detached job, what it does, seconds to keep it
-- Gives the id of the detached job that has the name now: this one, unless one that did not end badly has it; nothing
-- where a producer has claimed the name.
local known, claimed_until = unpack(redis.call('HMGET', KEYS[1], 'job', 'claimed_until'))
if claimed_until and tonumber(claimed_until) > tonumber(redis.call('TIME')[1]) then return false end
redis.call('EXPIRE', KEYS[1], ARGV[4])
if known and known ~= ARGV[2] then
  local ttl, state = unpack(redis.call('HMGET', ARGV[1] .. known, 'ttl', 'state'))
  if ttl and state ~= 'failed' and state ~= 'cancelled' then return known end
end
redis.call('HSET', KEYS[1], 'job', ARGV[2], 'work', ARGV[3])
redis.call('HDEL', KEYS[1], 'owner', 'claimed_until', 'ended')
redis.call('EXPIRE', KEYS[1], ARGV[4])
return ARGV[2]
