-- Moves chunks of detached job `id` from its backlog to the queue, as many as its share allows to be there: `in_queue:`
-- counts those that left and are not answered. One for each slot waits there in any case, also if those that were
-- sent are lost. `seconds` are what a chunk took, if one was answered. Kombu adds to a list on the left, and takes from
-- it on the right.
-- include share_queue
local CHUNKS_PER_SLOT, MOST_CHUNKS_PER_SLOT = 4, 16
local function refill(prefix, id, queue, seconds)
    local job = prefix .. 'job:' .. id
    local backlog = job .. ':backlog:' .. queue
    local left = redis.call('LLEN', backlog)
    if left == 0 then return end
    local sent = tonumber(redis.call('HGET', job, 'in_queue:' .. queue) or 0)
    local weight, ttl, mean = unpack(redis.call('HMGET', job, 'weight', 'ttl', 'chunk_seconds'))
    mean = tonumber(mean)
    if seconds then
        mean = mean and 0.8 * mean + 0.2 * seconds or seconds
        redis.call('HSET', job, 'chunk_seconds', tostring(mean))
    end
    local _, portion, slots = share_queue(prefix .. 'sharing:' .. queue, id, tonumber(weight), tonumber(ttl), mean)
    local window = math.floor(math.min(portion * CHUNKS_PER_SLOT, MOST_CHUNKS_PER_SLOT) * slots + 0.5)
    local few = math.max(1, slots) - redis.call('LLEN', prefix .. queue)
    local missing = math.min(left, math.max(math.max(1, window) - sent, few))
    for _ = 1, missing do redis.call('LMOVE', backlog, prefix .. queue, 'RIGHT', 'LEFT') end
    if missing > 0 then redis.call('HINCRBY', job, 'in_queue:' .. queue, missing) end
end
