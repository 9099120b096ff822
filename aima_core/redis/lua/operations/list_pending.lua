-- The operations that wait for room, oldest first, and that nobody has taken on.
--
-- KEYS  those waiting
-- ARGV  how many, prefix of records
-- Gives {id, its record, id, its record, …}.
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do
  local record = redis.call('HGETALL', ARGV[2] .. id)
  if #record == 0 or redis.call('PTTL', ARGV[2] .. id) >= 0 then
    redis.call('ZREM', KEYS[1], id)
  else
    found[#found + 1] = id
    found[#found + 1] = record
  end
end
return found
