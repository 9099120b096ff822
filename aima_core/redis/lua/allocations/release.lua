-- uses: allocations
-- Releases a service's allocation, unless a later operation got it since (fencing).
-- Returns 1, or 0 if there is none or its fence is higher.
local allocations = unpack(KEYS)
local service, highest_fence = unpack(ARGV)

local text = redis.call('HGET', allocations, service)
local allocation = text and parse_allocation(text)
if not text or allocation and allocation.fence > tonumber(highest_fence) then return 0 end
return redis.call('HDEL', allocations, service)
