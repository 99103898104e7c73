-- KEYS  the hash of a job          ARGV  fields and values
-- Enters a part of a detached job, unless one is there: whoever saw it lost may have been overtaken by who left it again.
local state, record = unpack(redis.call('HMGET', KEYS[1], 'state', 'record'))
if not (state and record) then redis.call('HSET', KEYS[1], unpack(ARGV)) end
