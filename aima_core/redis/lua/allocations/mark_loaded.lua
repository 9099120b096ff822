-- Say that a service has taken all the memory it was given.
--
-- KEYS  what the host holds
-- ARGV  service
local text = redis.call('HGET', KEYS[1], ARGV[1])
if text then redis.call('HSET', KEYS[1], ARGV[1], (string.gsub(text, '^(%d+) 1', '%1 0'))) end
return 1
