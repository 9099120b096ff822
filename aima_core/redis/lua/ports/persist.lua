-- uses: clock, leases, tolerant
-- Makes a port lease permanent: from now on only evidence that its container is gone releases it.
--
-- Writes the lease again if Redis has lost it, since the container is the ground truth. An instance has one lease: one
-- that a later operation has moved to another port stays there (fencing), an earlier one is released.
-- Returns 1, or 0 if another instance holds the port, or a later operation has leased another.
local ports, last_ports = unpack(KEYS)
local lease_prefix, instance, fence, port = unpack(ARGV)

local text = text_of(lease_prefix .. port)
local lease = text and json_object(text) or {holder = instance}
if lease.holder ~= instance then return 0 end

local last = redis.call('HGET', last_ports, instance)
local other = last and last ~= port and json_object(text_of(lease_prefix .. last) or '')
if other and other.holder == instance then
  if (tonumber(other.fence) or 0) > tonumber(fence) then return 0 end
  redis.call('DEL', lease_prefix .. last)
  redis.call('ZADD', ports, last, last)
end

redis.call('ZADD', ports, '+inf', port)
redis.call('SET', lease_prefix .. port, lease_text(instance, fence, tonumber(lease.since) or now_ms()))
redis.call('HSET', last_ports, instance, port)
return 1
