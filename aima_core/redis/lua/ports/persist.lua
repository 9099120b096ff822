-- uses: clock, leases, tolerant
-- Makes a port lease permanent: from now on only evidence that its container is gone releases it.
--
-- Writes the lease again if Redis has lost it, since the container is the ground truth.
-- Returns 1, or 0 if another instance holds the port.
local ports, last_ports = unpack(KEYS)
local lease_prefix, instance, fence, port = unpack(ARGV)

local text = text_of(lease_prefix .. port)
local lease = text and json_object(text) or {holder = instance}
if lease.holder ~= instance then return 0 end
redis.call('ZADD', ports, '+inf', port)
redis.call('SET', lease_prefix .. port, lease_text(instance, fence, tonumber(lease.since) or now_ms()))
redis.call('HSET', last_ports, instance, port)
return 1
