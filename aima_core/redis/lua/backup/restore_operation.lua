-- Restores the record and the events of an operation that has ended, unless Redis has a record of it.
-- Returns 1 if it was restored.
local operation, operations, log = unpack(KEYS)
local entry, ttl_ms, fields, events = unpack(ARGV)

if redis.call('EXISTS', operation) == 1 then return 0 end
for field, value in pairs(cjson.decode(fields)) do redis.call('HSET', operation, field, value) end
redis.call('ZADD', operations, 0, entry)
redis.call('DEL', log)
for _, each in ipairs(cjson.decode(events)) do redis.call('XADD', log, each[1], unpack(each[2])) end
redis.call('PEXPIRE', operation, ttl_ms)
redis.call('PEXPIRE', log, ttl_ms)
return 1
