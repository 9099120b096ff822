-- Let any host take on an operation whose host is lost, unless that host still holds its claim.
--
-- From then on it counts as asked for later than what was asked of the lost host meanwhile.
--
-- KEYS  operation, its claim, those waiting, the fence
-- ARGV  id, the lost host
-- Gives 1, or 0 when it was not so.
if redis.call('HGET', KEYS[1], 'host') ~= ARGV[2] or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HDEL', KEYS[1], 'host')
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'fence', redis.call('INCR', KEYS[4]), 'put_down', time[1] * 1000)
redis.call('ZADD', KEYS[3], time[1] * 1000, ARGV[1])
return 1
