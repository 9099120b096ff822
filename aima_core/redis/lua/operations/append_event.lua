-- uses: events, tolerant
-- Appends an event and updates its operation in one step: record, log and publication carry the same number.
--
-- `from_states` are the states that it may follow, with a comma on both sides of each; '' allows any.
-- Refused if the transition is not allowed, the operation has ended, or the attempt is superseded (fencing): a worker
-- that was partitioned must not write to an operation that another has taken over.
-- An event equal to the last one is a retry after a lost reply, and is not appended twice.
-- Returns the event's number, or 0 if refused.
local operation, log, common_log, active, waiting = unpack(KEYS)
local attempt, from_states, is_last, starts_prefix = unpack(ARGV, 1, 4)
local id, event, channel, log_cap, common_log_cap, ended_ttl = unpack(ARGV, 5, 10)
local changes = {unpack(ARGV, 11)}

local last = unless_wrong_type(redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 1), {})[1]
if last and last[2][2] == event then return tonumber(string.match(last[1], '^%d+')) end
local state = hash_value(operation, 'state')
if not state then return 0 end
if from_states ~= '' and not string.find(from_states, ',' .. state .. ',', 1, true) then return 0 end
if attempt ~= '' and attempt ~= redis.call('HGET', operation, 'attempt') then return 0 end

local seq = redis.call('HGET', operation, 'seq') or ''
seq = #seq < 10 and string.match(seq, '^%d+$') or 0 -- another one is forged, and would be no id of an entry
seq = string.format('%d', seq + 1)
redis.call('HSET', operation, 'seq', seq, unpack(changes))
publish_lines(channel, {log_event(id, seq, event, log, log_cap, common_log, common_log_cap)})

if is_last == '1' then
  redis.call('EXPIRE', operation, ended_ttl)
  redis.call('EXPIRE', log, ended_ttl)
  redis.call('ZREM', active, id)
  redis.call('ZREM', waiting, id)
  redis.pcall('HDEL', starts_prefix .. (hash_value(operation, 'service') or ''), id)
end
return tonumber(seq)
