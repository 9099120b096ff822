-- uses: clock, routes
-- Records which routes have a live consumer, and finds queued operations that end without one: those whose routes had
-- none for over limit_ms, and those that no worker has claimed until their order expired at the caller's clock.
--
-- The time counts from enqueueing, and again from each time that a route had a consumer: where hosts are live and full,
-- an operation waits on. Operations whose next check is due first come first, so that each has its turn.
-- Returns {{id, record, …} of the unroutable, {id, record, …} of the expired}.
local active, routes_seen = unpack(KEYS)
local operation_prefix, claim_prefix, limit_ms, count, forget_ms, clock, live_routes = unpack(ARGV)
local now = now_ms()

for _, route in ipairs(cjson.decode(live_routes)) do redis.call('ZADD', routes_seen, now, route) end
redis.call('ZREMRANGEBYSCORE', routes_seen, '-inf', now - forget_ms)

local function last_seen(routes)
  local last = 0
  for _, route in ipairs(routes) do
    last = math.max(last, tonumber(redis.call('ZSCORE', routes_seen, route) or '0'))
  end
  return last
end

local function add(found, id)
  found[#found + 1] = id
  found[#found + 1] = redis.call('HGETALL', operation_prefix .. id)
end

local unroutable, expired = {}, {}
for _, id in ipairs(redis.call('ZRANGE', active, 0, count - 1)) do
  local state, enqueued_at, routes, host, not_after =
    unpack(redis.call('HMGET', operation_prefix .. id, 'state', 'put_down', 'routes', 'host', 'not_after'))
  if state == 'queued' then
    if tonumber(not_after or clock) < tonumber(clock) and redis.call('EXISTS', claim_prefix .. id) == 0 then
      add(expired, id)
    elseif enqueued_at and now - enqueued_at > tonumber(limit_ms) then
      local candidates = host and {route_to(host)} or cjson.decode(routes)
      if now - last_seen(candidates) > tonumber(limit_ms) then add(unroutable, id) end
    end
  end
end
return {unroutable, expired}
