-- Notes of a job how executors differ, given as pairs of a model and that; how many were not known.
local function note_differed(job, pairs)
    local new = 0
    for field = 1, #pairs, 2 do
        new = new + redis.call('HSETNX', job, 'own_graph:' .. pairs[field], pairs[field + 1])
    end
    return new
end

-- Takes away the answers of a detached job that an executor has made which may yet differ, and has.
local function void_unproven(job, answers, unproven)
    local void = redis.call('HGETALL', unproven)
    for place = 1, #void, 2 do
        redis.call('HDEL', answers, void[place])
        local counts = cmsgpack.unpack(void[place + 1])
        for field, name in ipairs({'predicted', 'nonfinite_inputs', 'nonfinite_outputs', 'failed'}) do
            if (counts[field] or 0) > 0 then redis.call('HINCRBY', job, name, -counts[field]) end  -- Lua's -0 is no integer
        end
        redis.call('HINCRBY', job, 'answered', -1)
    end
    redis.call('UNLINK', unproven)
    if #void > 0 then
        redis.call('HINCRBY', job, 'void', #void / 2)
        redis.call('HSET', job, 'resend', 1)
    end
end
