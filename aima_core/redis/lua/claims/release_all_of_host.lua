-- End the claims of a host's worker that is no more, so that the next one goes on at once.
--
-- KEYS  the active operations, the host's slots
-- ARGV  host, prefix of records, of claims
-- Gives {id, …}: those that it was carrying out.
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local told = redis.call('HMGET', ARGV[2] .. id, 'host', 'attempt')
  if told[1] == ARGV[1] and told[2] then
    redis.call('DEL', ARGV[3] .. id)
    found[#found + 1] = id
  end
end
redis.call('DEL', KEYS[2])
return found
