-- Releases the port that an instance holds, and no other.
--
-- Done here rather than in Python: between a GET and a DEL the lease can expire and be taken by another instance, and
-- the DEL would then release that instance's port (ABA race).
-- Returns 1, or 0 if the instance holds none, or a later operation leased it (fencing).
local ports, last_ports = unpack(KEYS)
local lease_prefix, instance, highest_fence = unpack(ARGV)

local port = redis.call('HGET', last_ports, instance)
local text = port and redis.call('GET', lease_prefix .. port)
if not text then return 0 end
local lease = cjson.decode(text)
if lease.holder ~= instance or lease.fence > tonumber(highest_fence) then return 0 end
redis.call('DEL', lease_prefix .. port)
redis.call('ZADD', ports, port, port)
return 1
