-- uses: clock, leases, tolerant
-- Leases a port of a host for lease_ms: the requested one, else the instance's last one, else the first free one.
--
-- A port is free from the time in its score. A port never leased has its own number there, so that the lowest
-- comes first; a leased one has the end of its lease. So an expired lease needs no cleanup, and the cost does not grow
-- with the number of leases. `avoid` is a port found in use by another program: it is not leased again for avoid_ms.
-- `keep` is a port that the instance keeps beside the new one, while a change of it is not made yet.
-- Returns the port, 'out of range', 'none', or {the conflicting lease}.
local ports, last_ports = unpack(KEYS)
local lease_prefix, instance, fence, lease_ms, requested, avoid, avoid_ms, keep = unpack(ARGV)
local now = now_ms()

local last = redis.call('HGET', last_ports, instance)
local text = last and text_of(lease_prefix .. last)
local lease = text and json_object(text)
local leased = lease and lease.holder == instance and last
local lease_fence = leased and tonumber(lease.fence) or 0
if lease_fence > tonumber(fence) then return tonumber(last) end -- a later operation's: not moved by this one

if avoid ~= '' then
  redis.call('DEL', lease_prefix .. avoid)
  redis.call('ZADD', ports, now + avoid_ms, avoid)
  redis.call('HDEL', last_ports, instance)
  last, leased = false, false
end

local port = requested ~= '' and requested or last
if port and port == keep then
  local kept = json_object(text_of(lease_prefix .. port) or '')
  if kept and kept.holder == instance then
    if leased and leased ~= port then
      redis.call('DEL', lease_prefix .. leased)
      redis.call('ZADD', ports, leased, leased)
    end
    redis.call('HSET', last_ports, instance, port)
    return tonumber(port)
  end
end
if port and port ~= leased then
  local free_from = redis.call('ZSCORE', ports, port)
  if not free_from or tonumber(free_from) > now then
    if port == requested then return free_from and {text_of(lease_prefix .. port) or ''} or 'out of range' end
    port = false
  end
end
port = port or redis.call('ZRANGE', ports, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1]
if not port then return 'none' end

if leased and leased ~= port and leased ~= keep then
  redis.call('DEL', lease_prefix .. leased)
  redis.call('ZADD', ports, leased, leased)
end
redis.call('ZADD', ports, now + lease_ms, port)
redis.call('SET', lease_prefix .. port, lease_text(instance, fence, now), 'PX', lease_ms)
if port ~= last then redis.call('HSET', last_ports, instance, port) end
return tonumber(port)
