-- Put down the end of an operation that Redis has lost, and tell whoever follows it; one that is known stays as it is.
--
-- KEYS  operation, its log, the common log, all operations
-- ARGV  id, its entry among all operations, the number of its last event, event, channel, cap of the common log,
--       seconds until it expires, then field, value, …
-- Gives 1, or 0 when there is a record of it.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'seq', ARGV[3], unpack(ARGV, 8))
redis.call('EXPIRE', KEYS[1], ARGV[7])
redis.call('ZADD', KEYS[4], 0, ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[2], ARGV[3] .. '-0', 'event', ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[7])
local place = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'operation', ARGV[1], 'seq', ARGV[3], 'event', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[1] .. ' ' .. ARGV[3] .. ' ' .. place .. ' ' .. ARGV[4])
return 1
