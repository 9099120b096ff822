-- Move an operation on and tell everybody, in one step: record, log and publication bear the same number.
--
-- Refused when the operation has ended or may not move so, or when the writer's attempt is no longer the latest:
-- a worker that was thought dead and comes back must not speak for an operation that another has taken over.
-- An event that is the last one already was sent again, since Redis' answer did not come: it counts once.
--
-- KEYS  operation, its log, the common log, the active operations, those waiting
-- ARGV  attempt or '', the states it may move from (comma-separated), '1' if this ends it, id, event, channel,
--       cap of its log, cap of the common log, seconds until an ended one expires, then field, value, …
-- Gives the event's number, or 0 when refused.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if last and last[2][2] == ARGV[5] then return tonumber(string.match(last[1], '^%d+')) end
local state = redis.call('HGET', KEYS[1], 'state')
if not state or not string.find(ARGV[2], ',' .. state .. ',', 1, true) then return 0 end
if ARGV[1] ~= '' and ARGV[1] ~= redis.call('HGET', KEYS[1], 'attempt') then return 0 end

local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
if #ARGV > 9 then redis.call('HSET', KEYS[1], unpack(ARGV, 10)) end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], seq .. '-0', 'event', ARGV[5])
local place = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'operation', ARGV[4], 'seq', seq, 'event', ARGV[5])
redis.call('PUBLISH', ARGV[6], ARGV[4] .. ' ' .. seq .. ' ' .. place .. ' ' .. ARGV[5])

if ARGV[3] == '1' then
  redis.call('EXPIRE', KEYS[1], ARGV[9])
  redis.call('EXPIRE', KEYS[2], ARGV[9])
  redis.call('ZREM', KEYS[4], ARGV[4])
  redis.call('ZREM', KEYS[5], ARGV[4])
end
return seq
