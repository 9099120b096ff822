-- uses: events
-- Records and publishes the end of an operation that Redis has lost. An operation that Redis knows stays unchanged.
-- Returns 1, or 0 if there is a record.
local operation, log, common_log, operations = unpack(KEYS)
local id, entry, seq, event, channel, log_cap, common_log_cap, ended_ttl = unpack(ARGV, 1, 8)
local record = {unpack(ARGV, 9)}

if redis.call('EXISTS', operation) == 1 then return 0 end
redis.call('HSET', operation, 'seq', seq, unpack(record))
redis.call('EXPIRE', operation, ended_ttl)
redis.call('ZADD', operations, 0, entry)
redis.call('DEL', log)
publish_lines(channel, {log_event(id, seq, event, log, log_cap, common_log, common_log_cap)})
redis.call('EXPIRE', log, ended_ttl)
return 1
