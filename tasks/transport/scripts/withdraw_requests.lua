-- KEYS  requests
-- ARGV  ids
-- Takes requests that nobody waits for any more out of the list, if no child has taken them.
local withdrawn = {}
for _, id in ipairs(ARGV) do withdrawn[id] = true end
for _, request in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    local id = string.match(request, '^%d+ (%S+) ')
    if withdrawn[id] then redis.call('LREM', KEYS[1], 1, request) end
end
return 0
