-- Put a queued operation down with its first event, what it wants of its instance, and the doorbell that tells workers.
--
-- All of it or nothing: an API node that dies halfway leaves no operation that nobody is told of. One that is there
-- already stays as it is, so that a caller whom Redis has not answered may ask again.
--
-- KEYS  operation, its log, the common log, all operations, the active ones, those waiting, the fence, its queue, and for
--       one that leads to a host also: instance, the instances, the instances of its host
-- ARGV  id, event, channel, cap of its log, cap of the common log, its entry among all operations, milliseconds until
--       somebody looks after it, '1' if it waits for a host, message, command, the other fields as a JSON object, and
--       where there is an instance: its id, desired state, record
-- Gives its fence.
local known = redis.call('HGET', KEYS[1], 'fence')
if known then return tonumber(known) end

local fence = redis.call('INCR', KEYS[7])
if KEYS[9] then
  local held = tonumber(redis.call('HGET', KEYS[9], 'fence') or '0')
  if held >= fence then -- a Redis that lost the fence was told of the instance again, by its host
    fence = held + 1
    redis.call('SET', KEYS[7], fence)
  end
  redis.call('HSET', KEYS[9], 'fence', fence, 'desired', ARGV[13])
  redis.call('HSETNX', KEYS[9], 'record', ARGV[14])
  redis.call('ZADD', KEYS[10], 0, ARGV[12])
  redis.call('SADD', KEYS[11], ARGV[12])
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local record = {'fence', fence, 'seq', 1, 'command', ARGV[10]}
for field, value in pairs(cjson.decode(ARGV[11])) do
  record[#record + 1] = field
  record[#record + 1] = value
end
redis.call('HSET', KEYS[1], unpack(record))
redis.call('ZADD', KEYS[4], 0, ARGV[6])
redis.call('ZADD', KEYS[5], now + ARGV[7], ARGV[1])
if ARGV[8] == '1' then redis.call('ZADD', KEYS[6], now, ARGV[1]) end

redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '1-0', 'event', ARGV[2])
local place = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', 'operation', ARGV[1], 'seq', 1, 'event', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[1] .. ' 1 ' .. place .. ' ' .. ARGV[2])
redis.call('LPUSH', KEYS[8], ARGV[9])
return fence
