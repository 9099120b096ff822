-- Make the free ports of a host those of its range that nobody holds.
--
-- A free port stands there by its own number, or by the moment its lease ran out; a leased one by a moment to come.
--
-- KEYS  ports
-- ARGV  first, last
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
for port = ARGV[1], ARGV[2] do
  redis.call('ZADD', KEYS[1], 'NX', port, string.format('%d', port))
end
