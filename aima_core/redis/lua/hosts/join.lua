-- Take a host's name and identity for a worker, unless another that lives goes by one of them.
--
-- The same worker host comes back with the same session: it takes its own name again at once.
--
-- KEYS  hosts by when they were seen, sessions, identities
-- ARGV  name, identity, session, milliseconds after which a silent host is dead
-- Gives {'ok'}, {'name', the other's identity}, or {'identity', the other's name}.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6

local function lives_elsewhere(name)
  local session = redis.call('HGET', KEYS[2], name)
  local seen = tonumber(redis.call('ZSCORE', KEYS[1], name) or '0')
  return session and session ~= ARGV[2] .. ' ' .. ARGV[3] and now - seen < ARGV[4] / 1000
end

if lives_elsewhere(ARGV[1]) then
  return {'name', string.match(redis.call('HGET', KEYS[2], ARGV[1]), '^%S+')}
end
local name = redis.call('HGET', KEYS[3], ARGV[2])
if name and name ~= ARGV[1] and lives_elsewhere(name) then return {'identity', name} end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
return {'ok'}
