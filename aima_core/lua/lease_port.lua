-- Lease a port of a host: the one asked for, else the one the instance had last, else the lowest free one.
--
-- The cost does not grow with the number of leases: leases that have run out are given back here, a few at a time.
-- A port that the caller found to be in somebody else's use is avoided until that time is over.
--
-- KEYS  free, taken, last, the lease keys' prefix
-- ARGV  instance, fence, milliseconds the lease lasts, port asked for or '', avoided port or '', ms to avoid it
-- Gives the port, 'out of range', 'none', or {the lease that is in the way}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, port in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, 16)) do
  redis.call('ZREM', KEYS[2], port)
  redis.call('DEL', KEYS[4] .. port)
  redis.call('ZADD', KEYS[1], port, port)
end

local function held_by_it(port)
  local lease = port and redis.call('GET', KEYS[4] .. port)
  local told = lease and cjson.decode(lease)
  return told and told.holder == ARGV[1] and told
end

local last = redis.call('HGET', KEYS[3], ARGV[1])
local held = held_by_it(last)
if held and held.fence > tonumber(ARGV[2]) then return tonumber(last) end -- a later operation's, and not this one's to move

if ARGV[5] ~= '' then
  redis.call('ZREM', KEYS[1], ARGV[5])
  redis.call('DEL', KEYS[4] .. ARGV[5])
  redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[5])
  redis.call('HDEL', KEYS[3], ARGV[1])
end

last = redis.call('HGET', KEYS[3], ARGV[1])
local holds = held_by_it(last) and last
local function is_free(port) return port == holds or redis.call('ZSCORE', KEYS[1], port) end

local port = ARGV[4]
if port == '' and last and is_free(last) then port = last end
if port == '' then port = redis.call('ZRANGE', KEYS[1], 0, 0)[1] end
if not port then return 'none' end
if not is_free(port) then
  local other = redis.call('GET', KEYS[4] .. port)
  if other then return {other} end
  if redis.call('ZSCORE', KEYS[2], port) then return {''} end
  return 'out of range'
end

if holds and holds ~= port then
  redis.call('DEL', KEYS[4] .. holds)
  redis.call('ZREM', KEYS[2], holds)
  redis.call('ZADD', KEYS[1], holds, holds)
end
redis.call('ZREM', KEYS[1], port)
redis.call('ZADD', KEYS[2], now + ARGV[3], port)
redis.call('SET', KEYS[4] .. port, '{"holder":"' .. ARGV[1] .. '","fence":' .. ARGV[2] .. ',"since":' .. now .. '}', 'PX', ARGV[3])
redis.call('HSET', KEYS[3], ARGV[1], port)
return tonumber(port)
