-- uses: clock, hosts, routes, texts, tolerant
-- Lists services by id: the record of each, with its signed spec, and its instances as JSON, a line each, which the
-- caller checks once per text: dashboards request listings of hundreds of services repeatedly.
--
-- The status of an instance on a host that is not live may be stale: it is listed as unknown, unless nothing is left
-- of the instance. `gone_states` are those states, with a comma on both sides of each. On a drained host none serves.
-- Returns {the id after which the next page starts or '', ids, records, instances}: a line for each id and record, and
-- an empty line between the instances of two services.
local services, instances, hosts_seen, drained_hosts = unpack(KEYS)
local service_prefix, instance_prefix, first, last, limit, dead_ms, gone_states = unpack(ARGV)
local live, drained = {}, {}

local function is_host_live(host)
  if live[host] == nil then live[host] = is_live(hosts_seen, host, dead_ms) end
  return live[host]
end

local function is_drained(host)
  if drained[host] == nil then drained[host] = hash_value(drained_hosts, host) ~= false end
  return drained[host]
end

local function status(record, host)
  if is_drained(host) then record = string.gsub(record, '"serving":true', '"serving":false', 1) end
  if is_host_live(host) then return record end
  local state = string.match(record, '"state":"(%l+)"') or '' -- the first one is its own: texts have their quotes escaped
  if string.find(gone_states, ',' .. state .. ',', 1, true) then return record end
  return (string.gsub(record, '"state":"%l+"', '"state":"unknown"', 1))
end

local function listed_instances(service)
  local parts = {}
  for _, id in ipairs(instances_of(service, instances)) do
    local record, fence, desired = unpack(hash_values(instance_prefix .. id, 'record', 'fence', 'desired'))
    if record and fence and desired then
      parts[#parts + 1] = one_line(instance_json(status(record, string.sub(id, #service + 2)), fence, desired))
    end
  end
  return table.concat(parts, '\n')
end

local ids = redis.call('ZRANGE', services, first, last, 'BYLEX', 'LIMIT', 0, limit + 1)
local after, keys = '', {}
if #ids > tonumber(limit) then
  ids[#ids] = nil
  after = ids[#ids]
end
for at, id in ipairs(ids) do keys[at] = service_prefix .. id end
local records = #ids > 0 and redis.call('MGET', unpack(keys)) or {}
local listed = {ids = {}, records = {}, instances = {}}
for at, id in ipairs(ids) do
  if records[at] then
    local next = #listed.ids + 1
    listed.ids[next], listed.records[next] = one_line(id), one_line(records[at])
    listed.instances[next] = listed_instances(id)
  end
end
local all_ids, all_records = table.concat(listed.ids, '\n'), table.concat(listed.records, '\n')
return {after, all_ids, all_records, table.concat(listed.instances, '\n\n')}
