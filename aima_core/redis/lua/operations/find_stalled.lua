-- uses: clock, claims, hosts, routes, tolerant
-- Finds stalled operations: active, not claimed, and without a message on their queue. Each is returned to one caller
-- only and not again for retry_ms, so that concurrent callers never redeliver twice.
--
-- Operations that wait for capacity are not redelivered: hosts look for those themselves.
-- Returns {number waiting for capacity, {id, …} of those pending without a reason, id, queue, id, queue, …}.
local active, waiting, hosts_seen = unpack(KEYS)
local retry_ms, limit, dead_ms, claim_ms, operation_prefix, claim_prefix, queue_prefix = unpack(ARGV)
local now = now_ms()
local without_reason = {}
local found = {redis.call('ZCARD', waiting), without_reason}

local function check(id)
  local queue, host, kind, reason =
    unpack(hash_values(operation_prefix .. id, 'queue', 'host', 'kind', 'reason'))
  local has_no_reason = (reason or '') == ''
  if not host and redis.call('ZSCORE', waiting, id) then
    if has_no_reason then without_reason[#without_reason + 1] = id end
    return
  end
  if host and kind ~= 'stop' then queue = route_to(host) end
  if not queue or is_claimed(claim_prefix .. id, claim_ms) then return end
  if host and not is_live(hosts_seen, host, dead_ms) then return end
  if length(queue_prefix .. queue) > 0 then -- its own message may be among them
    if has_no_reason then without_reason[#without_reason + 1] = id end
    return
  end
  found[#found + 1] = id
  found[#found + 1] = queue
end

for _, id in ipairs(redis.call('ZRANGE', active, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)) do
  local state = hash_value(operation_prefix .. id, 'state')
  if not state or redis.call('PTTL', operation_prefix .. id) >= 0 then
    redis.call('ZREM', active, id)
    redis.call('ZREM', waiting, id)
  else
    redis.call('ZADD', active, now + retry_ms, id)
    check(id)
  end
end
return found
