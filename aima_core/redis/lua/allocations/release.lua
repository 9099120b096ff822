-- Give back what a service holds of a host, unless a later operation was given it since.
--
-- KEYS  what the host holds
-- ARGV  service, the highest fence that may be given back
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text or tonumber(string.match(text, '^%d+ %d (%-?%d+)')) > tonumber(ARGV[2]) then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
