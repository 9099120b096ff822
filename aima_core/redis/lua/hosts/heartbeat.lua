-- Say that a host lives, and learn what has changed for it.
--
-- KEYS  hosts by when they were seen, sessions, the drained hosts, the epoch
-- ARGV  name, identity and session, the epoch if this Redis has none
-- Gives {'ok', 'taken' (another worker goes by the name) or 'unknown' (Redis has lost it), '1' if drained, the epoch}.
local session = redis.call('HGET', KEYS[2], ARGV[1])
local standing = 'ok'
if not session then standing = 'unknown' elseif session ~= ARGV[2] then standing = 'taken' end
if standing == 'ok' then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[1], time[1] + time[2] / 1e6, ARGV[1])
end
redis.call('SET', KEYS[4], ARGV[3], 'NX')
return {standing, redis.call('HEXISTS', KEYS[3], ARGV[1]), redis.call('GET', KEYS[4])}
