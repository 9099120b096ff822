-- uses: tolerant
-- Restores the record of a running instance, unless it has changed since the caller read it (optimistic lock).
-- Returns 1, or 0 if the record has changed.
local instance, instances, host_instances = unpack(KEYS)
local id, fence, desired, record, expected_fence = unpack(ARGV)

delete_unless('hash', instance)
if (redis.call('HGET', instance, 'fence') or '') ~= expected_fence then return 0 end
redis.call('HSET', instance, 'fence', fence, 'desired', desired, 'record', record)
redis.call('ZADD', instances, 0, id)
redis.call('SADD', host_instances, id)
return 1
