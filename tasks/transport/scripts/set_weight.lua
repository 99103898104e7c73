-- KEYS  a job's hash          ARGV  weight          Gives the state that it is in; only a running one has it changed.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'running' then redis.call('HSET', KEYS[1], 'weight', ARGV[1]) end
return state
