-- KEYS  lists of requests, those that wait and those that children run
-- ARGV  seconds that each list lives from now on, as a child that is gone has given its own none; ids of requests
-- Gives the ids of those that are in none of the lists: whoever took them is gone.
local missing = {}
for place = 2, #ARGV do missing[ARGV[place]] = true end
for _, list in ipairs(KEYS) do
    redis.call('EXPIRE', list, ARGV[1])
    for _, request in ipairs(redis.call('LRANGE', list, 0, -1)) do
        local id = string.match(request, '^%d+ (%S+) ')
        if id then missing[id] = nil end
    end
end
local ids = {}
for id in pairs(missing) do ids[#ids + 1] = id end
return ids
