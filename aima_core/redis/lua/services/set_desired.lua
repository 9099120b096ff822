-- Sets the desired state of an instance, unless one with a higher fence was set before. A fence beyond `highest` is
-- forged, and counts as none.
--
-- `replace` '1' overwrites the status, too; '' sets it only for an instance that has none.
-- Returns 0 if superseded, else {the record before}.
local instance, instances, host_instances = unpack(KEYS)
local id, fence, highest, desired, record, replace = unpack(ARGV)

local before = redis.call('HGETALL', instance)
local seen = tonumber(redis.call('HGET', instance, 'fence') or '0') or 0
if tonumber(fence) < seen and seen <= tonumber(highest) then return 0 end
redis.call('HSET', instance, 'fence', fence, 'desired', desired)
redis.call(replace == '1' and 'HSET' or 'HSETNX', instance, 'record', record)
redis.call('ZADD', instances, 0, id)
redis.call('SADD', host_instances, id)
return {before}
