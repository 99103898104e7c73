-- KEYS  the job's own hash, its other keys          ARGV  prefix of all keys, job's id
-- Gives the state that it was in, and how many chunks it has, if it is detached; nothing that has expired comes back.
-- include leave_queues
local job = KEYS[1]
local state, chunks = unpack(redis.call('HMGET', job, 'state', 'chunks'))
if state == 'running' or (chunks and state == 'done') then redis.call('HSET', job, 'state', 'cancelled') end
redis.call('UNLINK', unpack(KEYS, 2))
leave_queues(ARGV[1], ARGV[2])
return {state, chunks}
