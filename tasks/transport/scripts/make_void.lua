-- KEYS  a detached job's hash, answers, unproven          ARGV  pairs of a model and how its executor differed elsewhere
-- include void_unproven
local job, answers, unproven = unpack(KEYS)
if redis.call('HGET', job, 'state') == 'running' and note_differed(job, ARGV) > 0 then
    void_unproven(job, answers, unproven)
end
