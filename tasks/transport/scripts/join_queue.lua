-- KEYS  an attached job's hash, sharing of a queue          ARGV  job's id, its weight if the hash has none, seconds
-- Gives the job's share of the queue.
-- include share_queue
local weight = tonumber(redis.call('HGET', KEYS[1], 'weight') or ARGV[2])
return tostring((share_queue(KEYS[2], ARGV[1], weight, tonumber(ARGV[3]))))
