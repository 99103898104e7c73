-- KEYS  a job's deliveries          ARGV  chunk, death as msgpack, sealed, whether it counts, worker and pid of the child
-- Several copies of a chunk may run at a time. The last one that has noted anything is the one that tells; a death of
-- another tells nothing as long as that one may live, and later no more than that there was one.
local key, index, death, counts, worker, pid = KEYS[1], unpack(ARGV)
if redis.call('HEXISTS', key, index) == 0 then return end
local function read(name)
    local value = redis.call('HGET', key, index .. ':' .. name)
    if not value then return end
    -- Behind the head of its seal; what was damaged tells nothing.
    local readable, note = pcall(cmsgpack.unpack, string.sub(value, string.byte(value, 4) == 0 and 17 or 49))
    return readable and type(note) == 'table' and note or nil
end
local at, why = read('at'), read('why')
if not at or (at.worker == worker and at.pid == tonumber(pid)) then
    redis.call('HSET', key, index .. ':why', death)
elseif not (why and why.worker == at.worker and why.pid == at.pid) then
    return
end
if counts == '1' then redis.call('HINCRBY', key, index .. ':deaths', 1) end
