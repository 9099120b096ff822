-- uses: clock, leases
-- Makes a port lease permanent: from now on only evidence that its container is gone releases it.
--
-- Writes the lease again if Redis has lost it, since the container is the ground truth. An instance has one lease: one
-- that a later operation has moved to another port stays there (fencing), an earlier one is released.
-- Returns 1, or 0 if another instance holds the port, or a later operation has leased another.
local ports, last_ports = unpack(KEYS)
local lease_prefix, instance, fence, port = unpack(ARGV)

local text = redis.call('GET', lease_prefix .. port)
local lease = text and cjson.decode(text) or {holder = instance, since = now_ms()}
if lease.holder ~= instance then return 0 end

local last = redis.call('HGET', last_ports, instance)
local other_text = last and last ~= port and redis.call('GET', lease_prefix .. last)
local other = other_text and cjson.decode(other_text)
if other and other.holder == instance then
  if other.fence > tonumber(fence) then return 0 end
  redis.call('DEL', lease_prefix .. last)
  redis.call('ZADD', ports, last, last)
end

redis.call('ZADD', ports, '+inf', port)
redis.call('SET', lease_prefix .. port, lease_text(instance, fence, lease.since))
redis.call('HSET', last_ports, instance, port)
return 1
