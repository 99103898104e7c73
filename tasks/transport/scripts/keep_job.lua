-- KEYS  jobs, the job's own hash, its other keys          ARGV  job's id, seconds
-- include extend_job
keep(KEYS[1], ARGV[1], tonumber(ARGV[2]), {unpack(KEYS, 2)})
