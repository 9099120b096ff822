-- uses: clock, events, tolerant
-- Enqueues operations: stores each with its first event and the desired state of its instance, and pushes its message.
--
-- One step, so that a crash of the API node leaves no stored operation without a message. An operation that is stored
-- already stays unchanged, so that the caller may retry after a lost reply.
--
-- `groups` is a JSON array; the operations of a group share command, fields (names and values of their records), waits
-- (for any host), age (in the index), event and, if they lead to a host, desired and instance (its status).
-- In event and instance, `<id>` stands for the operation's id and `<instance>` for its instance's. Each
-- operation has id, route, routes, queue, signature, message and, if it leads to a host, instance and host.
-- Returns the fences of the operations.
local common_log, operations, active, waiting, fence_counter, instances = unpack(KEYS)
local operation_prefix, log_prefix, queue_prefix, instance_prefix, host_prefix = unpack(ARGV, 1, 5)
local channel, log_cap, common_log_cap, retry_ms, groups = unpack(ARGV, 6, 10)
local now = now_ms()

local function next_fence(own)
  local fence = redis.call('INCR', fence_counter)
  if not own.instance then return fence end
  local seen = tonumber(hash_value(instance_prefix .. own.instance, 'fence') or '0') or 0
  if seen < fence then return fence end
  redis.call('SET', fence_counter, seen + 1) -- Redis lost the counter, and the host has restored its instance since
  return seen + 1
end

local function set_desired(own, fence, group)
  local key = instance_prefix .. own.instance
  local record = string.gsub(string.gsub(group.instance, '<id>', own.id), '<instance>', own.instance)
  delete_unless('hash', key)
  redis.call('HSET', key, 'fence', fence, 'desired', group.desired, 'asked_by', own.id)
  redis.call('HSETNX', key, 'record', record)
  redis.call('ZADD', instances, 0, own.instance)
  redis.call('SADD', host_prefix .. own.host, own.instance)
end

local function enqueue(own, group)
  local record = operation_prefix .. own.id
  local known = redis.call('HGET', record, 'fence')
  if known then return tonumber(known) end

  local fence = next_fence(own)
  if own.instance then set_desired(own, fence, group) end
  redis.call('HSET', record, 'fence', fence, 'seq', 1, 'put_down', now, 'command', group.command, 'route', own.route,
    'routes', own.routes, 'queue', own.queue, 'signature', own.signature, unpack(group.fields))
  redis.call('ZADD', operations, 0, group.age .. ' ' .. own.id)
  redis.call('ZADD', active, now + retry_ms, own.id)
  if group.waits then redis.call('ZADD', waiting, now, own.id) end
  local event = string.gsub(group.event, '<id>', own.id)
  publish_event(own.id, 1, event, log_prefix .. own.id, log_cap, common_log, common_log_cap, channel)
  redis.call('LPUSH', queue_prefix .. own.queue, own.message)
  return fence
end

local fences = {}
for _, group in ipairs(cjson.decode(groups)) do
  for _, own in ipairs(group.each) do fences[#fences + 1] = enqueue(own, group) end
end
return fences
