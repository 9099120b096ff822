-- uses: tolerant
-- Releases the last port that an instance holds, or another that it has `kept`, and no other.
--
-- Done here rather than in Python: between a GET and a DEL the lease can expire and be taken by another instance, and
-- the DEL would then release that instance's port (ABA race).
-- Returns 1, or 0 if the instance holds none, or a later operation leased it (fencing).
local ports, last_ports = unpack(KEYS)
local lease_prefix, instance, highest_fence, kept = unpack(ARGV)

local port = kept ~= '' and kept or redis.call('HGET', last_ports, instance)
local lease = json_object(port and text_of(lease_prefix .. port) or '')
if not lease or lease.holder ~= instance or (tonumber(lease.fence) or 0) > tonumber(highest_fence) then return 0 end
redis.call('DEL', lease_prefix .. port)
redis.call('ZADD', ports, port, port)
return 1
