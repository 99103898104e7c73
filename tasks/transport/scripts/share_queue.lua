-- What job `id` may have of a queue now, for as long as `ttl` seconds: its share of the slots, of 1; how many chunks of its
-- own that is for each chunk that a job alone would have there; and how many slots take chunks from the queue.
-- `sharing` has 'job:ID' with 'weight until share seconds' and 'worker:ID' with 'slots until'; who is late with a sign of
-- life is dropped. Jobs share by their weights; all those of one weight together have an eighth at least, before that is
-- brought to 1 again: a tenth, where jobs of two other weights are there. `seconds` are those of a chunk: a job whose
-- chunks are shorter has more of them. Chunks of which nobody knows yet how long they take count as long as its own.
local LEAST_SHARE, LEAST_WEIGHT, LEAST_SECONDS = 1 / 8, 0.01, 0.005
local function share_queue(sharing, id, weight, ttl, seconds)
    weight, ttl = math.max(weight or 1, LEAST_WEIGHT), ttl or 60  -- anybody may have written what they come from
    seconds = seconds and math.max(seconds, LEAST_SECONDS)
    local now = tonumber(redis.call('TIME')[1])
    local jobs, sums, total, slots = {{weight, seconds}}, {[weight] = weight}, weight, 0
    local entries = redis.call('HGETALL', sharing)
    for place = 1, #entries, 2 do
        local kind, name = string.match(entries[place], '^(%a+):(.+)$')
        local amount, till, chunk = string.match(entries[place + 1], '^(%S+) (%d+) ?%S* ?(%S*)$')
        amount, till, chunk = tonumber(amount), tonumber(till), tonumber(chunk)
        if not amount or not till or till < now then
            redis.call('HDEL', sharing, entries[place])
        elseif kind == 'worker' then
            slots = slots + amount
        elseif name ~= id and amount >= LEAST_WEIGHT then
            table.insert(jobs, {amount, chunk})
            sums[amount] = (sums[amount] or 0) + amount
            total = total + amount
        end
    end
    local all = 0
    for _, sum in pairs(sums) do all = all + math.max(sum / total, LEAST_SHARE) end
    local function share_of(one) return math.max(sums[one] / total, LEAST_SHARE) / all * one / sums[one] end
    local mean = 0
    for _, job in ipairs(jobs) do mean = mean + share_of(job[1]) * (job[2] or seconds or 0) end
    local share = share_of(weight)
    local noted = string.format('%.17g %d %.4f ', weight, now + ttl, share)
    redis.call('HSET', sharing, 'job:' .. id, noted .. (seconds and string.format('%.4f', seconds) or ''))
    redis.call('EXPIRE', sharing, 7 * 86400)  -- as a queue that nobody consumes
    return share, seconds and share * mean / seconds or share, slots
end
