-- Note which routes are listened to now, and find what is queued where nobody has listened for long.
--
-- It is counted from when it was put down, and anew from each time that somebody listened: where a host lives that is
-- merely full, it waits on. Those longest not looked after come first, so that each has its turn.
--
-- KEYS  the active operations, routes by when somebody listened
-- ARGV  prefix of records, milliseconds that are long, how many to look at, milliseconds after which a route is
--       forgotten, the routes listened to now as a JSON array
-- Gives {id, record, …}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, route in ipairs(cjson.decode(ARGV[5])) do redis.call('ZADD', KEYS[2], now, route) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[4])

local function heard(routes)
  local last = 0
  for _, route in ipairs(routes) do last = math.max(last, tonumber(redis.call('ZSCORE', KEYS[2], route) or '0')) end
  return last
end

local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[3] - 1)) do
  local told = redis.call('HMGET', ARGV[1] .. id, 'state', 'put_down', 'routes', 'host')
  if told[1] == 'queued' and told[2] and now - told[2] > tonumber(ARGV[2]) then
    local routes = told[4] and {'host.' .. told[4]} or cjson.decode(told[3])
    if now - heard(routes) > tonumber(ARGV[2]) then
      found[#found + 1] = id
      found[#found + 1] = redis.call('HGETALL', ARGV[1] .. id)
    end
  end
end
return found
