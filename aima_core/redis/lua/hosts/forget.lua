-- Forget a host that is gone for good, with all that is known of it and by it; refused while it lives.
--
-- One step, since the host may come back at any moment: it joins anew then, and must find all of its records or none.
-- The operations themselves stay; the claims on them end here, so that each can be ended or go elsewhere.
--
-- KEYS  the hosts, those by when they were seen, sessions, identities, the drained hosts, those that met senseless
--       messages, the host of each service, the instances, the active operations, the routes, Celery's messages that
--       were handed out and when, then the host's own: instances, ports, last ports, and whatever else goes with it
-- ARGV  name, milliseconds after which a silent host is dead, its two queues, prefix of its ports, of instances, of
--       lines, of last lines, of operations, of claims
-- Gives 'forgotten', 'live', or 'unknown'.
local hosts, seen, sessions, identities, drained, dropped = unpack(KEYS, 1, 6)
local services_at, instances, active, routes, unacked, unacked_index = unpack(KEYS, 7, 12)
local own_instances, ports, last_ports = unpack(KEYS, 13, 15)
local name, dead, queue, stop_queue, port_prefix = unpack(ARGV, 1, 5)
local instance_prefix, lines_prefix, last_lines_prefix, operation_prefix, claim_prefix = unpack(ARGV, 6, 10)

if redis.call('HEXISTS', hosts, name) == 0 then return 'unknown' end
local time = redis.call('TIME')
if time[1] + time[2] / 1e6 - (redis.call('ZSCORE', seen, name) or 0) < dead / 1000 then return 'live' end

local function forget_fields_that_say(key, value)
  local all = redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    if all[at + 1] == value then redis.call('HDEL', key, all[at]) end
  end
end

local function end_claims()
  for _, id in ipairs(redis.call('ZRANGE', active, 0, -1)) do
    if redis.call('HGET', operation_prefix .. id, 'host') == name then redis.call('DEL', claim_prefix .. id) end
  end
end

-- What Celery handed to the host's worker would be put back on a queue that nobody reads.
local function forget_what_was_handed_out()
  local all = redis.call('HGETALL', unacked)
  for at = 1, #all, 2 do
    local read, told = pcall(cjson.decode, all[at + 1])
    local from = read and type(told) == 'table' and told[3]
    if from == queue or from == stop_queue then
      redis.call('HDEL', unacked, all[at])
      redis.call('ZREM', unacked_index, all[at])
    end
  end
end

local function forget_instances()
  for _, id in ipairs(redis.call('SMEMBERS', own_instances)) do
    redis.call('DEL', instance_prefix .. id)
    redis.call('ZREM', instances, id)
  end
  for _, id in ipairs(redis.call('HKEYS', last_ports)) do -- whatever spoke had a port; some of it is removed by now
    redis.call('DEL', lines_prefix .. id, last_lines_prefix .. id)
  end
end

local function forget_leases()
  for _, port in ipairs(redis.call('ZRANGE', ports, 0, -1)) do redis.call('DEL', port_prefix .. port) end
end

end_claims()
forget_what_was_handed_out()
forget_instances()
forget_leases()
forget_fields_that_say(services_at, name)
forget_fields_that_say(identities, name)
for _, of_all in ipairs({hosts, sessions, drained, dropped}) do redis.call('HDEL', of_all, name) end
redis.call('ZREM', seen, name)
redis.call('ZREM', routes, queue)
redis.call('DEL', unpack(KEYS, 13))
return 'forgotten'
