-- uses: clock, hosts
-- Registers a worker under its name and identity, unless a live worker in another session has one of them. A restarted
-- worker with the same session takes its name back at once.
-- Returns {'ok'}, {'name', the other's identity}, or {'identity', the other's name}.
local hosts_seen, sessions, identities = unpack(KEYS)
local name, identity, session, dead_ms = unpack(ARGV)
local own_session = identity .. ' ' .. session

local function is_taken(name)
  local other = redis.call('HGET', sessions, name)
  return other and other ~= own_session and is_live(hosts_seen, name, dead_ms)
end

if is_taken(name) then return {'name', string.match(redis.call('HGET', sessions, name), '^%S+') or '?'} end
local previous = redis.call('HGET', identities, identity)
local is_its_own = previous and string.match(redis.call('HGET', sessions, previous) or '', '^%S+') == identity
if is_its_own and previous ~= name and is_taken(previous) then return {'identity', previous} end
redis.call('HSET', sessions, name, own_session)
redis.call('HSET', identities, identity, name)
redis.call('ZADD', hosts_seen, now_ms() / 1000, name)
return {'ok'}
