-- Keep a claim, and learn whether the work is still wanted. What has ended needs none: its holder is about to hear.
--
-- KEYS  operation, its claim, the host's slots
-- ARGV  id, attempt, host, milliseconds the claim lasts
-- Gives 'go on', 'cancel' (somebody asked for it), 'lost' (another attempt has begun), or 'gone' (there is no record).
local told = redis.call('HMGET', KEYS[1], 'attempt', 'cancel', 'kind')
if not told[1] then return 'gone' end
if told[1] ~= ARGV[2] then return 'lost' end
local ended = redis.call('PTTL', KEYS[1]) >= 0
if not ended then redis.call('SET', KEYS[2], ARGV[3] .. ' in attempt ' .. ARGV[2], 'PX', ARGV[4]) end
if not ended and told[3] ~= 'stop' then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4], ARGV[1])
end
if told[2] then return 'cancel' end
return 'go on'
