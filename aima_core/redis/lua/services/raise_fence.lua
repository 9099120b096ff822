-- See to it that the next fence given out is higher than one that was seen.
--
-- KEYS  the fence
-- ARGV  the fence seen
-- Gives 1 when it was raised, else 0.
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
