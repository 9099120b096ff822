-- Lease a port of a host: the one asked for, else the one the instance had last, else the first free one.
--
-- Free is a port by the moment that stands beside it: its own number, so that the lowest is taken first, or the end of
-- a lease, which nobody has to give back. So the cost does not grow with the number of leases.
-- A port that the caller found to be in somebody else's use is avoided until that time is over.
--
-- KEYS  ports, last, the lease keys' prefix
-- ARGV  instance, fence, milliseconds the lease lasts [, port asked for or '' [, port to avoid, ms to avoid it]]
-- Gives the port, 'out of range', 'none', or {the lease that is in the way}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local last = redis.call('HGET', KEYS[2], ARGV[1])
local lease = last and redis.call('GET', KEYS[3] .. last)
local held = lease and cjson.decode(lease)
local holds = held and held.holder == ARGV[1] and last
if holds and held.fence > tonumber(ARGV[2]) then return tonumber(last) end -- a later operation's, and not this one's to move

local asked, avoided = ARGV[4] or '', ARGV[5]
if avoided then
  redis.call('DEL', KEYS[3] .. avoided)
  redis.call('ZADD', KEYS[1], now + ARGV[6], avoided)
  redis.call('HDEL', KEYS[2], ARGV[1])
  last, holds = false, false
end

local port = asked ~= '' and asked or last
if port and port ~= holds then
  local free_from = redis.call('ZSCORE', KEYS[1], port)
  if not free_from or tonumber(free_from) > now then
    if port == asked then return free_from and {redis.call('GET', KEYS[3] .. port) or ''} or 'out of range' end
    port = false
  end
end
port = port or redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1]
if not port then return 'none' end

if holds and holds ~= port then
  redis.call('DEL', KEYS[3] .. holds)
  redis.call('ZADD', KEYS[1], holds, holds)
end
redis.call('ZADD', KEYS[1], now + ARGV[3], port)
redis.call('SET', KEYS[3] .. port, '{"holder":"' .. ARGV[1] .. '","fence":' .. ARGV[2] .. ',"since":' .. now .. '}', 'PX', ARGV[3])
if port ~= last then redis.call('HSET', KEYS[2], ARGV[1], port) end
return tonumber(port)
