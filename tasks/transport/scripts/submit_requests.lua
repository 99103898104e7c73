-- KEYS  requests
-- ARGV  how many may wait, how many bytes, seconds that the list lives; then requests
-- Gives how many wait with these; or, less than 0, how many wait without them where these would be too many.
local requests, most, most_bytes, ttl = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local waiting, count = redis.call('LLEN', requests), #ARGV - 3
if waiting > 0 and (waiting + count > most or (waiting + count) * #ARGV[4] > most_bytes) then return -waiting end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for place = 4, #ARGV do
    redis.call('RPUSH', requests, string.format('%.0f ', now) .. ARGV[place])
end
redis.call('EXPIRE', requests, ttl)
return waiting + count
