-- uses: events
-- Appends an event and updates its operation in one step: record, log and publication carry the same number.
--
-- Refused if the transition is not allowed, the operation has ended, or the attempt is superseded (fencing): a worker
-- that was partitioned must not write to an operation that another has taken over.
-- An event equal to the last one is a retry after a lost reply, and is not appended twice.
-- Returns the event's number, or 0 if refused.
local operation, log, common_log, active, waiting = unpack(KEYS)
local attempt, from_states, is_last, id, event, channel, log_cap, common_log_cap, ended_ttl = unpack(ARGV, 1, 9)
local changes = {unpack(ARGV, 10)}

local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if last and last[2][2] == event then return tonumber(string.match(last[1], '^%d+')) end
local state = redis.call('HGET', operation, 'state')
if not state or not string.find(from_states, ',' .. state .. ',', 1, true) then return 0 end
if attempt ~= '' and attempt ~= redis.call('HGET', operation, 'attempt') then return 0 end

local seq = redis.call('HINCRBY', operation, 'seq', 1)
if #changes > 0 then redis.call('HSET', operation, unpack(changes)) end
publish_event(id, seq, event, log, log_cap, common_log, common_log_cap, channel)

if is_last == '1' then
  redis.call('EXPIRE', operation, ended_ttl)
  redis.call('EXPIRE', log, ended_ttl)
  redis.call('ZREM', active, id)
  redis.call('ZREM', waiting, id)
end
return seq
