-- KEYS  lists of requests, those that wait and those that children run
-- ARGV  ids of requests
-- Gives the ids of those that are in none of the lists: whoever took them is gone.
local missing = {}
for _, id in ipairs(ARGV) do missing[id] = true end
for _, list in ipairs(KEYS) do
    for _, request in ipairs(redis.call('LRANGE', list, 0, -1)) do
        local id = string.match(request, '^%d+ (%S+) ')
        if id then missing[id] = nil end
    end
end
local ids = {}
for id in pairs(missing) do ids[#ids + 1] = id end
return ids
