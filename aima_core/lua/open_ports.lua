-- Make the free ports of a host those of its range that nobody holds.
--
-- KEYS  free, taken
-- ARGV  first, last
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. ARGV[2], '+inf')
local taken = {}
for _, port in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do taken[port] = true end
for port = ARGV[1], ARGV[2] do
  local name = string.format('%d', port)
  if not taken[name] then redis.call('ZADD', KEYS[1], port, name) end
end
