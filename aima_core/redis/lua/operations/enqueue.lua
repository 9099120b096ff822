-- Put queued operations down, each with its first event, what it wants of its instance, and the doorbell that tells
-- workers.
--
-- All of it or nothing: an API node that dies halfway leaves no operation that nobody is told of. One that is there
-- already stays as it is, so that a caller whom Redis has not answered may ask again.
--
-- KEYS  the common log, all operations, the active ones, those waiting, the fence, the instances
-- ARGV  prefixes of operations, of their logs, of queues, of an instance, of the instances of a host; channel, cap of a
--       log, cap of the common log, milliseconds until somebody looks after them, and a JSON array of those alike:
--       command, fields and values of their records, waits (for any host), age in the index, event, where they lead to
--       hosts what is desired of the instance and its record (in these texts `<id>` stands for the operation's id and
--       `<instance>` for its instance's), and each: id, route, routes, queue, signature, message, instance, host
-- Gives their fences.
local operation_prefix, log_prefix, queue_prefix, instance_prefix, host_prefix = unpack(ARGV, 1, 5)
local channel, log_cap, common_log_cap, look_after = unpack(ARGV, 6, 9)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function next_fence(own)
  local fence = redis.call('INCR', KEYS[5])
  if not own.instance then return fence end
  local held = tonumber(redis.call('HGET', instance_prefix .. own.instance, 'fence') or '0')
  if held < fence then return fence end
  redis.call('SET', KEYS[5], held + 1) -- a Redis that lost the fence was told of the instance again, by its host
  return held + 1
end

local function want(own, fence, alike)
  local key = instance_prefix .. own.instance
  local record = string.gsub(string.gsub(alike.instance, '<id>', own.id), '<instance>', own.instance)
  redis.call('HSET', key, 'fence', fence, 'desired', alike.desired, 'asked_by', own.id)
  redis.call('HSETNX', key, 'record', record)
  redis.call('ZADD', KEYS[6], 0, own.instance)
  redis.call('SADD', host_prefix .. own.host, own.instance)
end

local function tell(id, event)
  local said = string.gsub(event, '<id>', id)
  redis.call('XADD', log_prefix .. id, 'MAXLEN', '~', log_cap, '1-0', 'event', said)
  local place = redis.call('XADD', KEYS[1], 'MAXLEN', '~', common_log_cap, '*', 'operation', id, 'seq', 1, 'event', said)
  redis.call('PUBLISH', channel, id .. ' 1 ' .. place .. ' ' .. said)
end

local function put_down(own, alike)
  local record = operation_prefix .. own.id
  local known = redis.call('HGET', record, 'fence')
  if known then return tonumber(known) end

  local fence = next_fence(own)
  if own.instance then want(own, fence, alike) end
  redis.call('HSET', record, 'fence', fence, 'seq', 1, 'put_down', now, 'command', alike.command, 'route', own.route, 'routes', own.routes,
    'queue', own.queue, 'signature', own.signature, unpack(alike.fields))
  redis.call('ZADD', KEYS[2], 0, alike.age .. ' ' .. own.id)
  redis.call('ZADD', KEYS[3], now + look_after, own.id)
  if alike.waits then redis.call('ZADD', KEYS[4], now, own.id) end
  tell(own.id, alike.event)
  redis.call('LPUSH', queue_prefix .. own.queue, own.message)
  return fence
end

local fences = {}
for _, alike in ipairs(cjson.decode(ARGV[10])) do
  for _, own in ipairs(alike.each) do fences[#fences + 1] = put_down(own, alike) end
end
return fences
