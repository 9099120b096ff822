-- End a claim, and give back its slot. What the host holds for the service is given back with its container.
--
-- KEYS  operation, its claim, the host's slots
-- ARGV  id, attempt, host, '1' if any host may take it on from now on
-- Gives 1, or 0 when another attempt has begun.
if redis.call('GET', KEYS[2]) ~= ARGV[3] .. ' in attempt ' .. ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
if ARGV[4] == '1' then redis.call('HDEL', KEYS[1], 'host') end
return 1
