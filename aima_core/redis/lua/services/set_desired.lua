-- Say what an instance shall be, unless somebody with a higher fence has said it since.
--
-- KEYS  instance, the instances, the instances of its host
-- ARGV  id, fence, desired state, record, '1' if that holds from now on or '' if only for an instance that has none
-- Gives 0 when it was said, else {what the instance was before}.
local before = redis.call('HGETALL', KEYS[1])
local fence = tonumber(redis.call('HGET', KEYS[1], 'fence') or '0')
if tonumber(ARGV[2]) < fence then return 0 end
redis.call('HSET', KEYS[1], 'fence', ARGV[2], 'desired', ARGV[3])
redis.call(ARGV[5] == '1' and 'HSET' or 'HSETNX', KEYS[1], 'record', ARGV[4])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
return {before}
