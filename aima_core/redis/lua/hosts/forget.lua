-- uses: clock, hosts, tolerant
-- Forgets a removed host: deletes every record of it in one step, so that a host which joins again finds all of its
-- records or none (race). Refused while it is live.
--
-- Its operations stay; their claims end here, so that each operation can be ended or moved.
-- Returns 'forgotten', 'live', or 'unknown'.
local hosts, hosts_seen, sessions, identities, drained, labels, dropped, certificates = unpack(KEYS, 1, 8)
local services_at, instances, active, routes, unacked, unacked_index = unpack(KEYS, 9, 14)
local own_instances, ports, last_ports = unpack(KEYS, 15, 17)
local own_keys = {unpack(KEYS, 15)}
local name, dead_ms, queue, stop_queue, port_prefix = unpack(ARGV, 1, 5)
local instance_prefix, lines_prefix, last_lines_prefix, operation_prefix, claim_prefix = unpack(ARGV, 6, 10)

local function delete_fields_with(key, value)
  local all = redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    if all[at + 1] == value then redis.call('HDEL', key, all[at]) end
  end
end

local function end_claims()
  for _, id in ipairs(redis.call('ZRANGE', active, 0, -1)) do
    if hash_value(operation_prefix .. id, 'host') == name then redis.call('DEL', claim_prefix .. id) end
  end
end

-- Celery would requeue what it delivered to the host's worker on a queue that has no consumer.
local function delete_unacknowledged_messages()
  local all = redis.call('HGETALL', unacked)
  for at = 1, #all, 2 do
    local parsed, delivery = pcall(cjson.decode, all[at + 1])
    local from = parsed and type(delivery) == 'table' and delivery[3]
    if from == queue or from == stop_queue then
      redis.call('HDEL', unacked, all[at])
      redis.call('ZREM', unacked_index, all[at])
    end
  end
end

local function delete_instances()
  for _, id in ipairs(redis.call('SMEMBERS', own_instances)) do
    redis.call('DEL', instance_prefix .. id)
    redis.call('ZREM', instances, id)
  end
  for _, id in ipairs(redis.call('HKEYS', last_ports)) do -- includes instances removed before: each had a port
    redis.call('DEL', lines_prefix .. id, last_lines_prefix .. id)
  end
end

local function delete_leases()
  for _, port in ipairs(redis.call('ZRANGE', ports, 0, -1)) do redis.call('DEL', port_prefix .. port) end
end

if redis.call('HEXISTS', hosts, name) == 0 then return 'unknown' end
if is_live(hosts_seen, name, dead_ms) then return 'live' end
end_claims()
delete_unacknowledged_messages()
delete_instances()
delete_leases()
delete_fields_with(services_at, name)
delete_fields_with(identities, name)
for _, key in ipairs({hosts, sessions, drained, labels, dropped, certificates}) do redis.call('HDEL', key, name) end
redis.call('ZREM', hosts_seen, name)
redis.call('ZREM', routes, queue)
redis.call('DEL', unpack(own_keys))
return 'forgotten'
