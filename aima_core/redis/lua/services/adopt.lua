-- Put back what is known of an instance that runs, unless somebody has said something of it since it was looked at.
--
-- Its service is written down only where there is none: what people asked for says more than one container does.
-- The fence is raised, so that whatever is asked for from now on counts as asked for later.
--
-- KEYS  instance, the instances, the instances of its host, its service, the services, the fence
-- ARGV  id, fence, desired state, record, the fence it was seen with or '' for none, service's id, service's record
-- Gives 1, or 0 when it was not as it had been seen.
if tonumber(redis.call('GET', KEYS[6]) or '0') < tonumber(ARGV[2]) then redis.call('SET', KEYS[6], ARGV[2]) end
if (redis.call('HGET', KEYS[1], 'fence') or '') ~= ARGV[5] then return 0 end
redis.call('HSET', KEYS[1], 'fence', ARGV[2], 'desired', ARGV[3], 'record', ARGV[4])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
if redis.call('SETNX', KEYS[4], ARGV[7]) == 1 then redis.call('ZADD', KEYS[5], 0, ARGV[6]) end
return 1
