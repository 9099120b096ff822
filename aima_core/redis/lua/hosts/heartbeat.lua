-- uses: clock
-- Records a host's heartbeat, unless its session was superseded or lost.
-- Returns {'ok', 'taken' (another worker has the name) or 'unknown' (Redis lost it), 1 if drained, the epoch}.
local hosts_seen, sessions, drained, epoch = unpack(KEYS)
local name, own_session, new_epoch = unpack(ARGV)

local session = redis.call('HGET', sessions, name)
local membership = not session and 'unknown' or session ~= own_session and 'taken' or 'ok'
if membership == 'ok' then redis.call('ZADD', hosts_seen, now_ms() / 1000, name) end
redis.call('SET', epoch, new_epoch, 'NX') -- set only if this Redis has none: it is new, or has lost its data
return {membership, redis.call('HEXISTS', drained, name), redis.call('GET', epoch)}
