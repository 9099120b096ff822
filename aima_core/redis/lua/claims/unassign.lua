-- uses: clock, claims, tolerant
-- Lets any host claim an operation of a lost host, unless that host still holds the claim (false failure detection).
--
-- The operation gets a new fence, so that it supersedes later requests to the lost host.
-- Returns 1, or 0 if it is not that host's or is still claimed.
local operation, claim, waiting, fence_counter = unpack(KEYS)
local id, lost_host, claim_ms = unpack(ARGV)

if hash_value(operation, 'host') ~= lost_host or is_claimed(claim, claim_ms) then return 0 end
local now = now_ms()
redis.call('HDEL', operation, 'host')
redis.call('HSET', operation, 'fence', redis.call('INCR', fence_counter), 'put_down', now)
redis.call('ZADD', waiting, now, id)
return 1
