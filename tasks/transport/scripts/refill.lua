-- Moves chunks of detached job `id` from its backlog to the queue, as many as its share allows to be there: `in_queue:`
-- counts those that left and are not answered. One for each slot waits there in any case, also if those that were
-- sent are lost. Kombu adds to a list on the left, and takes from it on the right.
-- include share_queue
local CHUNKS_PER_SLOT = 4
local function refill(prefix, id, queue)
    local job = prefix .. 'job:' .. id
    local backlog = job .. ':backlog:' .. queue
    local left = redis.call('LLEN', backlog)
    if left == 0 then return end
    local weight, ttl, sent = unpack(redis.call('HMGET', job, 'weight', 'ttl', 'in_queue:' .. queue))
    local share, slots = share_queue(prefix .. 'sharing:' .. queue, id, tonumber(weight), tonumber(ttl))
    local window = math.max(1, math.floor(share * CHUNKS_PER_SLOT * slots + 0.5))
    local few = math.max(1, slots) - redis.call('LLEN', prefix .. queue)
    local missing = math.min(left, math.max(window - tonumber(sent or 0), few))
    for _ = 1, missing do redis.call('LMOVE', backlog, prefix .. queue, 'RIGHT', 'LEFT') end
    if missing > 0 then redis.call('HINCRBY', job, 'in_queue:' .. queue, missing) end
end
