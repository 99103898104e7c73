-- KEYS  job, results, answers, payloads, jobs, deliveries, unproven, unacked; that of its outputs, if they have one
-- ARGV  answer, seconds that `results` and the outputs live, job's id, chunk, rows predicted or of the failure, sealed
--       failure or '',
--       tag of the delivery, rows not finite in and out, prefix of all keys, queue that the chunk came from or '',
--       seconds that it took, three counts, rows that failed beside those predicted; so many fields of deliveries, models run by an executor, pairs of a model and how its
--       executor differed; then pairs of a model that failed alone and its sealed record
-- Gives 1 where the answer counts, 0 where the job is over or has one, -1 where its executor is known to differ; and
-- whether this server holds the delivery; and how many requests wait for the models of the queue.
-- Only a detached job has `chunks`. Answers to a job that is over are not kept: nobody would take them off the list.
-- include extend_job
-- include refill
-- include leave_queues
-- include void_unproven
local job, results, answers, payloads, jobs, deliveries, unproven, unacked = unpack(KEYS)
local answer, results_ttl, id, index, rows, failure, tag, inputs, outputs = unpack(ARGV)
local prefix, queue, seconds, noted, by_executor, differed, failed_rows = unpack(ARGV, 10)
noted, by_executor, differed = tonumber(noted), tonumber(by_executor), tonumber(differed)

local function publish()
    local at = 16
    local state, chunks, ttl, models = unpack(redis.call('HMGET', job, 'state', 'chunks', 'ttl', 'models'))
    -- As when the reply was lost: it is no second one, whose file would have to go.
    if chunks and redis.call('HGET', answers, index) == answer then return 1 end
    if state == 'running' then
        for name = at + noted + 1, at + noted + by_executor do
            if redis.call('HEXISTS', job, 'own_graph:' .. ARGV[name]) == 1 then return -1 end
        end
    end
    if noted > 0 then redis.call('HDEL', deliveries, unpack(ARGV, at + 1, at + noted)) end
    if state ~= 'running' then return 0 end
    at = at + noted + by_executor
    local new = note_differed(job, {unpack(ARGV, at + 1, at + 2 * differed)})
    at = at + 2 * differed
    if new > 0 and chunks then void_unproven(job, answers, unproven) end
    if not chunks then
        redis.call('RPUSH', results, answer)
        redis.call('EXPIRE', results, results_ttl)
        if KEYS[9] then redis.call('EXPIRE', KEYS[9], results_ttl) end
        return 1
    end
    if redis.call('HEXISTS', answers, index) == 1 then
        redis.call('HINCRBY', job, 'duplicates', 1)
        return 0
    end
    local time = redis.call('TIME')
    redis.call('HSET', job, 'answered_at', time[1] .. string.format('.%06d', time[2]))
    redis.call('HINCRBY', job, 'answered', 1)
    for field = at + 1, #ARGV, 2 do
        local is_new = redis.call('HSETNX', job, 'failed:' .. ARGV[field], ARGV[field + 1]) == 1
        if is_new and redis.call('HINCRBY', job, 'failed_models', 1) == tonumber(models) then failure = ARGV[field + 1] end
    end
    if failure ~= '' then
        redis.call('HINCRBY', job, 'failed', rows)
        redis.call('HSET', job, 'state', 'failed', 'failure', failure)
        redis.call('UNLINK', answers, payloads, unproven)
        leave_queues(prefix, id)
    else
        redis.call('HINCRBY', job, 'predicted', rows)
        if failed_rows ~= '0' then redis.call('HINCRBY', job, 'failed', failed_rows) end
        if inputs ~= '0' then redis.call('HINCRBY', job, 'nonfinite_inputs', inputs) end
        if outputs ~= '0' then redis.call('HINCRBY', job, 'nonfinite_outputs', outputs) end
        redis.call('HSET', answers, index, answer)
        if by_executor > 0 then
            local counts = {tonumber(rows), tonumber(inputs), tonumber(outputs), tonumber(failed_rows)}
            redis.call('HSET', unproven, index, cmsgpack.pack(counts))
        else
            redis.call('HDEL', payloads, index)
        end
        if redis.call('HLEN', answers) == tonumber(chunks) then
            redis.call('HSET', job, 'state', 'done')
            redis.call('UNLINK', payloads, unproven)
            leave_queues(prefix, id)
        elseif queue ~= '' then
            local sent = 'in_queue:' .. queue
            if redis.call('HINCRBY', job, sent, -1) < 0 then redis.call('HSET', job, sent, 0) end
            refill(prefix, id, queue, tonumber(seconds))
        end
    end
    keep(jobs, id, tonumber(ttl), {job, payloads, answers, unproven})
    return 1
end

return {publish(), redis.call('HEXISTS', unacked, tag), redis.call('LLEN', prefix .. 'requests:' .. queue)}
