-- Forgets what of detached job `id` is not in a queue yet, and that it has a share of them.
local function leave_queues(prefix, id)
    local job = prefix .. 'job:' .. id
    for queue in string.gmatch(redis.call('HGET', job, 'queues') or '', '%S+') do
        redis.call('UNLINK', job .. ':backlog:' .. queue)
        redis.call('HDEL', prefix .. 'sharing:' .. queue, 'job:' .. id)
    end
end
