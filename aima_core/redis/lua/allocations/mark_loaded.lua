-- uses: allocations
-- Marks an allocation as loaded: its memory shows in the kernel's figures from now on.
-- Returns 1, or 0 if the service has no allocation.
local allocations = unpack(KEYS)
local service = unpack(ARGV)

local text = redis.call('HGET', allocations, service)
local allocation = text and parse_allocation(text)
if not allocation then return 0 end
allocation.loading = false
redis.call('HSET', allocations, service, format_allocation(allocation))
return 1
