-- Raises the last fencing token to one that a host has seen: the clock of the API node that reserved it may be ahead of
-- those of others.
-- Returns 1, or 0 if it is as high already.
local fence_counter = unpack(KEYS)
local seen = unpack(ARGV)

local last = redis.pcall('GET', fence_counter)
if type(last) == 'string' and (tonumber(last) or 0) >= tonumber(seen) then return 0 end
redis.call('SET', fence_counter, seen)
return 1
