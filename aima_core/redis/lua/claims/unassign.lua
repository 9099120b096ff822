-- uses: clock
-- Lets any host claim an operation of a lost host, unless that host still holds the claim (false failure detection).
--
-- Its instance on the lost host is no longer desired, so that the copy there stops when the host is back, unless a later
-- operation has a higher fence. The attempt there is superseded: the operation keeps its fence, which its order names.
-- Returns 1, or 0 if it is not that host's or is still claimed.
local operation, claim, waiting, instance = unpack(KEYS)
local id, lost_host = unpack(ARGV)

local host, fence = unpack(redis.call('HMGET', operation, 'host', 'fence'))
if host ~= lost_host or redis.call('EXISTS', claim) == 1 then return 0 end
local now = now_ms()
redis.call('HDEL', operation, 'host')
redis.call('HINCRBY', operation, 'attempt', 1)
redis.call('HSET', operation, 'put_down', now)
redis.call('ZADD', waiting, now, id)
local seen = tonumber(redis.call('HGET', instance, 'fence'))
if seen and seen <= tonumber(fence) then redis.call('HSET', instance, 'fence', fence, 'desired', 'stopped') end
return 1
