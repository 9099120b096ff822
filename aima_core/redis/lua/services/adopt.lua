-- Restores the record of a running instance, unless it has changed since the caller read it (optimistic lock).
--
-- Its service is restored only if there is none: the request of a person says more than one container does.
-- Returns 1, or 0 if the record has changed.
local instance, instances, host_instances, service, services = unpack(KEYS)
local id, fence, desired, record, expected_fence, service_id, service_record = unpack(ARGV)

if (redis.call('HGET', instance, 'fence') or '') ~= expected_fence then return 0 end
redis.call('HSET', instance, 'fence', fence, 'desired', desired, 'record', record)
redis.call('ZADD', instances, 0, id)
redis.call('SADD', host_instances, id)
if redis.call('SETNX', service, service_record) == 1 then redis.call('ZADD', services, 0, service_id) end
return 1
