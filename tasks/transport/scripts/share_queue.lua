-- What job `id` may have of a queue now, of 1, and the slots that take chunks from it; the job counts for `ttl` seconds.
-- `sharing` has 'job:ID' with 'weight until share' and 'worker:ID' with 'slots until'; who is late with a sign of life
-- is dropped. Jobs share by their weights; all those of one weight together have an eighth at least, before that is
-- brought to 1 again: a tenth, where jobs of two other weights are there.
local LEAST_SHARE = 1 / 8
local function share_queue(sharing, id, weight, ttl)
    local now = tonumber(redis.call('TIME')[1])
    local sums, total, slots = {[weight] = weight}, weight, 0
    local entries = redis.call('HGETALL', sharing)
    for place = 1, #entries, 2 do
        local kind, name = string.match(entries[place], '^(%a+):(.+)$')
        local amount, till = string.match(entries[place + 1], '^(%S+) (%d+)')
        amount, till = tonumber(amount), tonumber(till)
        if not till or till < now then
            redis.call('HDEL', sharing, entries[place])
        elseif kind == 'worker' then
            slots = slots + amount
        elseif name ~= id then
            sums[amount] = (sums[amount] or 0) + amount
            total = total + amount
        end
    end
    local all = 0
    for _, sum in pairs(sums) do all = all + math.max(sum / total, LEAST_SHARE) end
    local share = math.max(sums[weight] / total, LEAST_SHARE) / all * weight / sums[weight]
    redis.call('HSET', sharing, 'job:' .. id, string.format('%.17g %d %.4f', weight, now + ttl, share))
    redis.call('EXPIRE', sharing, 7 * 86400)  -- as a queue that nobody consumes
    return share, slots
end
