-- KEYS  requests, taken
-- ARGV  which request is the first: 'taken' already, 'waiting', or 'none'; rows and bytes that may be taken in all; what
--       channels of callers are called before their names; seconds that `taken` lives; then callers, each with answers
-- Gives callers their answers, and forgets what was taken for them. Then takes the request that has waited longest, and
-- others of its group that wait, as long as they fit.
-- Gives what became of the first one, then two lists: requests to run, and those whose time is up, without the first
-- one if it was taken already. Those whose caller has gone are dropped. False where none waits.
local requests, taken = KEYS[1], KEYS[2]
local which, most_rows, most_bytes, channel, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
for place = 6, #ARGV, 2 do redis.call('PUBLISH', channel .. ARGV[place], ARGV[place + 1]) end
if which ~= 'taken' then redis.call('UNLINK', taken) end
if which == 'none' then return false end
local is_taken = which == 'taken'
local time = redis.call('TIME')
local now, heard = time[1] * 1000 + math.floor(time[2] / 1000), {}

local function parse(request)
    local at, id, group, rows, timeout, caller = string.match(request, '^(%d+) (%S+) (%S+) (%d+) (%d+) (%S+)\n')
    return tonumber(at), group, tonumber(rows), tonumber(timeout), caller
end

local function state(request)
    local at, _, _, timeout, caller = parse(request)
    if not at then return 'run' end  -- no request: its reader says so
    if heard[caller] == nil then heard[caller] = redis.call('PUBSUB', 'NUMSUB', channel .. caller)[2] > 0 end
    if not heard[caller] then return 'gone' end
    return timeout > 0 and now - at > timeout and 'late' or 'run'
end

local first = is_taken and redis.call('LINDEX', taken, -1) or redis.call('LPOP', requests)
if not first then return false end
if not is_taken then redis.call('RPUSH', taken, first) end
local found, run, late = {first}, {}, {}
local _, group, rows, _, _ = parse(first)
rows = rows or most_rows
local bytes = #first
local place, more = 0, true
while more and rows < most_rows do
    local waiting = redis.call('LRANGE', requests, place, place + 63)
    more = #waiting == 64
    for _, request in ipairs(waiting) do
        local _, its_group, its_rows = parse(request)
        if its_group == group and rows + its_rows <= most_rows and bytes + #request <= most_bytes then
            rows, bytes = rows + its_rows, bytes + #request
            found[#found + 1] = request
            if place == 0 then redis.call('LPOP', requests) else redis.call('LREM', requests, 1, request) end
            redis.call('RPUSH', taken, request)
        else
            place = place + 1
        end
    end
    if place > 256 then break end
end
redis.call('EXPIRE', taken, ttl)
local of_first = state(first)
for number, request in ipairs(found) do
    local its = number == 1 and of_first or state(request)
    if number > 1 or not is_taken then
        if its == 'run' then run[#run + 1] = request elseif its == 'late' then late[#late + 1] = request end
    end
end
if #run + #late == 0 and (not is_taken or of_first == 'gone') then redis.call('DEL', taken) end
return {of_first, run, late}
