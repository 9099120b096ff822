-- uses: clock, events, tolerant, revisions
-- Enqueues operations: stores each with its first event and the desired state of its instance, and pushes its message.
--
-- One step, so that a crash of the API node leaves no stored operation without a message. An operation that is stored
-- already stays unchanged, so that the caller may retry after a lost reply. An operation whose instance has as high a
-- fence already is stored as superseded, with its end; a fence beyond `highest` is forged, and counts as none.
--
-- `groups` is a JSON array; the operations of a group share command, fields (names and values of their records), waits
-- (for any host), age (in the index), event, message, the fields and the event of a superseded one (`late_fields`,
-- `late_event`, with `<by>` for the later operation) and, if they lead to a host, desired and instance (its status).
-- Events, message and instance are templates: texts, and between two of them the name of the operation's own value.
-- `each` are the own values of each operation, in the order of `names`: id, fence, signature, route, routes, queue, those
-- of its message, and, if it leads to a host, instance and host. Its message is pushed `to` its queue, or to that of the
-- host of its routes which is notified first.
-- The orders of the operations follow, in their order: long texts that JSON would have to escape.
-- A start with `asks_for` joins one of its service that has not ended, asks for the same, and goes to the same host: it
-- is not stored. If the service is `alone`, having one instance, any host is the same. Starts with the same `together`,
-- those of one change, join others only if all of them can.
-- A group may `put` the spec of its service: it becomes the current one, among its last revisions, unless the first
-- operation is superseded or stored already: a retry must not replace a newer spec.
-- A stop `after` starts leaves the desired state of its instance: it is claimed once they have succeeded.
-- Returns {id, 'operation <the later one>' or 'a later operation', …} of superseded operations, and {id, the joined
-- operation, …} of joining starts.
local common_log, operations, active, waiting, instances = unpack(KEYS)
local operation_prefix, log_prefix, queue_prefix, instance_prefix, host_prefix, starts_prefix = unpack(ARGV, 1, 6)
local channel, log_cap, common_log_cap, ended_ttl, retry_ms, highest, groups = unpack(ARGV, 7, 13)
local orders = {unpack(ARGV, 14)}
local now, published = now_ms(), {}
local put_down, due = string.format('%d', now), string.format('%d', now + retry_ms) -- not for each operation
local joins, joining = {}, {} -- the other start of each that joined; whether all starts of a change do
local starts = {} -- by service and place
local new_starts, added = {}, {} -- by service: {id, route, …}; by sorted set: {score, member, …}
groups = cjson.decode(groups)

-- Replaces the values of each operation by a table with their names, and the keys of its records.
local function name_values(group)
  for number, values in ipairs(group.each) do
    local own = {}
    for at, name in ipairs(group.names) do own[name] = values[at] end
    own.record = operation_prefix .. own.id
    own.status = own.instance and instance_prefix .. own.instance
    group.each[number] = own
  end
end

-- Whether none of these keys exists: one call answers for all operations of a new service.
local function are_new(name)
  local keys = {}
  for _, group in ipairs(groups) do
    for _, own in ipairs(group.each) do keys[#keys + 1] = own[name] or nil end
  end
  return #keys == 0 or redis.call('EXISTS', unpack(keys)) == 0
end

for _, group in ipairs(groups) do name_values(group) end
local all_unknown, all_new = are_new('record'), are_new('status')
local written = {} -- the instances of which this script has set the desired state

local function is_known(own) return not all_unknown and redis.call('HGET', own.record, 'state') end

local function has_status(own) return own.instance and (not all_new or written[own.instance]) end

local function filled(template, own)
  local pieces = {unpack(template)}
  for at = 2, #pieces, 2 do pieces[at] = own[pieces[at]] end
  return table.concat(pieces)
end

local function is_superseded(own)
  local seen = has_status(own) and tonumber(hash_value(own.status, 'fence') or '0') or 0
  return seen >= tonumber(own.fence) and seen <= tonumber(highest)
end

-- Added by one call for all operations: a call costs more than what it writes.
local function add(sorted_set, score, member)
  added[sorted_set] = added[sorted_set] or {}
  local list = added[sorted_set]
  list[#list + 1] = score
  list[#list + 1] = member
end

local function set_desired(own, group)
  local status, wanted = filled(group.instance, own), {'fence', own.fence, 'desired', group.desired, 'asked_by', own.id}
  if has_status(own) then
    set_fields(own.status, unpack(wanted))
    redis.call('HSETNX', own.status, 'record', status)
  else
    redis.call('HSET', own.status, 'record', status, unpack(wanted))
    written[own.instance] = true
  end
  add(instances, '0', own.instance)
  redis.call('SADD', host_prefix .. own.host, own.instance)
end

local function publish(own, seq, event, by)
  local log, text = log_prefix .. own.id, filled(event, own)
  if by then text = string.gsub(text, '<by>', by) end
  published[#published + 1] = log_event(own.id, seq, text, log, log_cap, common_log, common_log_cap)
end

local function later_operation(own)
  local id = string.match(hash_value(own.status, 'asked_by') or '', '^[%w-]+$')
  local fence = id and tonumber(hash_value(operation_prefix .. id, 'fence') or nil) or 0
  return fence > tonumber(own.fence) and 'operation ' .. id or 'a later operation'
end

local function store_superseded(own, group, by)
  local record, log = own.record, log_prefix .. own.id
  for at = 1, #group.late_fields, 2 do
    redis.call('HSET', record, group.late_fields[at], (string.gsub(group.late_fields[at + 1], '<by>', by)))
  end
  redis.call('HSET', record, 'seq', 2)
  publish(own, 2, group.late_event, by)
  redis.call('EXPIRE', record, ended_ttl)
  redis.call('EXPIRE', log, ended_ttl)
end

local function add_start(service, id, route)
  local place = string.sub(route, 1, 5) == 'host.' and route or ''
  starts[service][place] = starts[service][place] or {}
  table.insert(starts[service][place], {id = id})
end

-- The starts of a service by their route to one host, '' for others; without their records: a thousand starts of one
-- service go to as many hosts.
local function starts_of(service)
  if not starts[service] then
    starts[service] = {}
    local found = hash(starts_prefix .. service)
    for at = 1, #found, 2 do add_start(service, found[at], found[at + 1]) end
  end
  return starts[service]
end

-- Whether the start is neither ended nor cancelled; its record is cached.
local function is_active(start)
  if start.active == nil then
    local state, cancelled
    state, start.asks_for, start.route, start.host, cancelled =
      unpack(hash_values(operation_prefix .. start.id, 'state', 'asks_for', 'route', 'host', 'cancel'))
    start.active = (state == 'queued' or state == 'running') and not cancelled
  end
  return start.active
end

local function joined_at(place, own, group)
  for _, start in ipairs(starts_of(group.service)[place] or {}) do
    if is_active(start) and start.asks_for == group.asks_for then
      local same_host = start.route == own.route or (own.host and start.host == own.host)
      if group.alone or same_host then return start.id end
    end
  end
end

local function joined(own, group)
  if not group.asks_for then return nil end
  local found = joined_at('', own, group) or joined_at(own.route, own, group)
  if found or not group.alone then return found end
  for place in pairs(starts_of(group.service)) do
    found = found or joined_at(place, own, group)
  end
  return found
end

local function all_join(change)
  for _, group in ipairs(groups) do
    for _, own in ipairs(group.together == change and group.each or {}) do
      if is_superseded(own) or not joined(own, group) then return false end
    end
  end
  return true
end

local function other_start(own, group)
  local change = group.together
  if change and joining[change] == nil then joining[change] = all_join(change) end
  if change and not joining[change] then return nil end
  joins[own.id] = joined(own, group)
  return joins[own.id]
end

local function starts_before(group)
  local ids = {}
  for at, id in ipairs(group.after) do ids[at] = joins[id] or id end
  return table.concat(ids, ',')
end

local function enqueue(own, group, order)
  local record, known, superseded = own.record, is_known(own), is_superseded(own)
  if known then return known == 'cancelled' and superseded and later_operation(own) end
  local other = not superseded and other_start(own, group)
  if other then return other end

  redis.call('HSET', record, 'fence', own.fence, 'seq', '1', 'put_down', put_down, 'command', group.command, 'order', order,
    'signature', own.signature, 'route', own.route, 'routes', own.routes, 'queue', own.queue, unpack(group.fields))
  add(operations, '0', group.age .. ' ' .. own.id)
  publish(own, '1', group.event)
  if superseded then
    local by = later_operation(own)
    store_superseded(own, group, by)
    return by
  end
  if group.asks_for then
    starts_of(group.service)
    add_start(group.service, own.id, own.route)
    local news = new_starts[group.service] or {}
    news[#news + 1] = own.id
    news[#news + 1] = own.route
    new_starts[group.service] = news
  end
  if group.after then
    redis.call('HSET', record, 'after', starts_before(group))
  elseif own.instance then
    set_desired(own, group)
  end
  add(active, due, own.id)
  if group.waits then add(waiting, put_down, own.id) end
  redis.call('LPUSH', queue_prefix .. own.to, filled(group.message, own))
end

local function put_spec(put)
  redis.call('SET', put.service, put.record)
  redis.call('ZADD', put.services, 0, put.id)
  keep_revision(put.revisions, put.number, put.record)
end

local late, at = {}, 1
for _, group in ipairs(groups) do
  local first = group.each[1]
  if group.put and not is_known(first) and not is_superseded(first) then put_spec(group.put) end
  for _, own in ipairs(group.each) do
    local other = enqueue(own, group, orders[at])
    if other then
      late[#late + 1] = own.id
      late[#late + 1] = other
    end
    at = at + 1
  end
end
for sorted_set, members in pairs(added) do redis.call('ZADD', sorted_set, unpack(members)) end
for service, fields in pairs(new_starts) do set_fields(starts_prefix .. service, unpack(fields)) end
publish_lines(channel, published)
return late
