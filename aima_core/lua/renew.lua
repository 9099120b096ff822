-- Keep a claim, and learn whether the work is still wanted.
--
-- KEYS  operation, its claim
-- ARGV  attempt, host, milliseconds the claim lasts
-- Gives 'go on', 'cancel' (somebody asked for it), or 'lost' (another attempt has begun, or the record is gone).
local told = redis.call('HMGET', KEYS[1], 'attempt', 'cancel')
if told[1] ~= ARGV[1] then return 'lost' end
redis.call('SET', KEYS[2], ARGV[2] .. ' in attempt ' .. ARGV[1], 'PX', ARGV[3])
if told[2] then return 'cancel' end
return 'go on'
