-- KEYS  an attached job's hash, sharing of a queue
-- ARGV  job's id, its weight if the hash has none, seconds that it counts, those of a chunk or ''
-- Gives how many chunks the job may have there for each that it would have alone.
-- include share_queue
local weight = tonumber(redis.call('HGET', KEYS[1], 'weight')) or tonumber(ARGV[2])
local _, portion = share_queue(KEYS[2], ARGV[1], weight, tonumber(ARGV[3]), tonumber(ARGV[4]))
return tostring(portion)
