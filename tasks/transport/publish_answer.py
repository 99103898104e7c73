"""Puts a chunk's answer where its job looks for it, unless the job is over.

attached job:  answer --> list, off which its producer takes it
detached job:  answer --> hash by chunk; the first valid one counts, the last one ends the job; so does a failure,
               and that of the last model: one of several that fails alone is noted in the job's own hash

What is noted of the chunk's deliveries ends with its answer, unless that only asks for another delivery.

An answer may tell that an executor differs from its model's own graph. The job's record has that from this moment on:
no answer of this executor is taken after it. Those that a detached job had are void, and its chunks are sent again by
whoever looks after it (`void`, `resend` in its record); until then the rows of such answers are kept.
"""

from __future__ import annotations

import hashlib

import msgspec
import redis

from tasks.protocol import keys
from tasks.protocol.messages import Answer, Failure, Outputs, pack
from tasks.recovery.delivery_log import fields_of
from tasks.transport.job_expiry import KEEP

# Failures after which the chunk may come again.
ASK_AGAIN = ("fetch", "worker")

# The fields are those of `tasks/protocol/job_fields.py`. Only a detached job has `chunks`.
# Answers to a job that is over are not kept: nobody would take them off the list.
_PUSH = (
    KEEP
    + """
local job, results, answers, payloads, jobs, deliveries, unproven = unpack(KEYS)
local answer, results_ttl, id, index, rows, failure, inputs, outputs, noted, made, differed = unpack(ARGV)
noted, made, differed = tonumber(noted), tonumber(made), tonumber(differed)
local at = 11
local state, chunks, ttl, models = unpack(redis.call('HMGET', job, 'state', 'chunks', 'ttl', 'models'))
if state == 'running' then
    for name = at + noted + 1, at + noted + made do
        if redis.call('HEXISTS', job, 'own_graph:' .. ARGV[name]) == 1 then return -1 end
    end
end
if noted > 0 then redis.call('HDEL', deliveries, unpack(ARGV, at + 1, at + noted)) end
if state ~= 'running' then return 0 end
at = at + noted + made
local new = 0
for pair = at + 1, at + 2 * differed, 2 do
    new = new + redis.call('HSETNX', job, 'own_graph:' .. ARGV[pair], ARGV[pair + 1])
end
at = at + 2 * differed
if new > 0 and chunks then
    local void = redis.call('HGETALL', unproven)
    for place = 1, #void, 2 do
        redis.call('HDEL', answers, void[place])
        local counts = cmsgpack.unpack(void[place + 1])
        for field, name in ipairs({'predicted', 'nonfinite_inputs', 'nonfinite_outputs'}) do
            if counts[field] > 0 then redis.call('HINCRBY', job, name, -counts[field]) end  -- Lua's -0 is no integer
        end
        redis.call('HINCRBY', job, 'answered', -1)
    end
    redis.call('UNLINK', unproven)
    if #void > 0 then
        redis.call('HINCRBY', job, 'void', #void / 2)
        redis.call('HSET', job, 'resend', 1)
    end
end
if not chunks then
    redis.call('RPUSH', results, answer)
    redis.call('EXPIRE', results, results_ttl)
    return 1
end
if redis.call('HEXISTS', answers, index) == 1 then
    redis.call('HINCRBY', job, 'duplicates', 1)
    return 0
end
local time = redis.call('TIME')
redis.call('HSET', job, 'answered_at', time[1] .. string.format('.%06d', time[2]))
redis.call('HINCRBY', job, 'answered', 1)
for pair = at + 1, #ARGV, 2 do
    local is_new = redis.call('HSETNX', job, 'failed:' .. ARGV[pair], ARGV[pair + 1]) == 1
    if is_new and redis.call('HINCRBY', job, 'failed_models', 1) == tonumber(models) then failure = ARGV[pair + 1] end
end
if failure ~= '' then
    redis.call('HINCRBY', job, 'failed', rows)
    redis.call('HSET', job, 'state', 'failed', 'failure', failure)
    redis.call('UNLINK', answers, payloads, unproven)
else
    redis.call('HINCRBY', job, 'predicted', rows)
    if inputs ~= '0' then redis.call('HINCRBY', job, 'nonfinite_inputs', inputs) end
    if outputs ~= '0' then redis.call('HINCRBY', job, 'nonfinite_outputs', outputs) end
    redis.call('HSET', answers, index, answer)
    if made > 0 then
        local counts = {tonumber(rows), tonumber(inputs), tonumber(outputs)}
        redis.call('HSET', unproven, index, cmsgpack.pack(counts))
    else
        redis.call('HDEL', payloads, index)
    end
    if redis.call('HLEN', answers) == tonumber(chunks) then
        redis.call('HSET', job, 'state', 'done')
        redis.call('UNLINK', payloads, unproven)
    end
end
keep(jobs, id, tonumber(ttl), {job, payloads, answers, unproven})
return 1
"""
)

# The name by which Redis knows a script that it has seen.
_PUSH_SHA = hashlib.sha1(_PUSH.encode(), usedforsecurity=False).hexdigest()


class VoidAnswerError(Exception):
    """The chunk is to be run again, by the own graphs of its models."""


def push_answer(client: redis.Redis, answer: Answer, ttl_seconds: int) -> bool:
    """Give the answer to its job; False if the job is over or, detached, had this chunk's answer already.

    `ttl_seconds` is for the list of an attached job; a detached one has its own.

    Raises:
        VoidAnswerError: an executor made it that is known by now to differ.
    """
    job = answer.job
    held = [keys.job(job), keys.results(job), keys.answers(job), keys.payloads(job), keys.JOBS, keys.deliveries(job)]
    held.append(keys.unproven(job))
    rows = answer.record if isinstance(answer, Failure) else answer
    failure = msgspec.json.encode(answer.record) if isinstance(answer, Failure) else b""
    comes_again = isinstance(answer, Failure) and answer.record.stage in ASK_AGAIN
    noted = [] if comes_again else fields_of(answer.index)
    values: list[bytes | str | int] = [pack(answer), ttl_seconds, job, answer.index, rows.stop - rows.start, failure]
    nonfinite = (answer.nonfinite_inputs, answer.nonfinite_outputs) if isinstance(answer, Outputs) else (0, 0)
    values += [*nonfinite, len(noted), len(answer.by_executor), len(answer.differed), *noted, *answer.by_executor]
    for one in answer.differed:
        values += [one.model, msgspec.json.encode(one)]
    if isinstance(answer, Outputs):
        for record in answer.failed:
            values += [record.model, msgspec.json.encode(record)]
    try:
        pushed = client.evalsha(_PUSH_SHA, len(held), *held, *values)
    except redis.exceptions.NoScriptError:  # the server is new, or has forgotten it
        pushed = client.eval(_PUSH, len(held), *held, *values)
    if pushed == -1:
        raise VoidAnswerError
    return bool(pushed)
