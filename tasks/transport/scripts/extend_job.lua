-- The job's keys `held`, its own hash first, live on for `ttl` seconds, and with them `jobs`: ids by time of expiry.
local function keep(jobs, id, ttl, held)
    if redis.call('EXPIRE', held[1], ttl) == 0 then return end
    for i = 2, #held do redis.call('EXPIRE', held[i], ttl) end
    for queue in string.gmatch(redis.call('HGET', held[1], 'queues') or '', '%S+') do
        redis.call('EXPIRE', held[1] .. ':backlog:' .. queue, ttl)
    end
    local now = tonumber(redis.call('TIME')[1])
    redis.call('ZREMRANGEBYSCORE', jobs, '-inf', now)
    redis.call('ZADD', jobs, now + ttl, id)
    redis.call('EXPIREAT', jobs, redis.call('ZRANGE', jobs, -1, -1, 'WITHSCORES')[2])
end
