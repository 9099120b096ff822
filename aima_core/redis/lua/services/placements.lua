-- uses: routes, tolerant
-- Returns the records of services, with their signed specs, and their instances, in the order of the services; stopped
-- instances come last; and the starts that have not ended:
-- {record or '', {instance, …}, {instance desired to run, its record, …}, {start, its record, …}, record or '', …}.
local instances = unpack(KEYS)
local service_prefix, instance_prefix, operation_prefix, starts_prefix, service_ids = unpack(ARGV)

local function active_starts(service)
  local found = {}
  for _, id in ipairs(set(starts_prefix .. service)) do
    local state, cancelled = unpack(hash_values(operation_prefix .. id, 'state', 'cancel'))
    if (state == 'queued' or state == 'running') and not cancelled then
      found[#found + 1] = id
      found[#found + 1] = hash(operation_prefix .. id)
    end
  end
  return found
end

local found = {}
for _, service in ipairs(cjson.decode(service_ids)) do
  local placed, stopped, running = {}, {}, {}
  for _, id in ipairs(instances_of(service, instances)) do
    local desired, record = unpack(hash_values(instance_prefix .. id, 'desired', 'record'))
    if record then
      local is_stopped = desired == 'stopped' and (json_object(record) or {}).state == 'stopped'
      table.insert(is_stopped and stopped or placed, id)
      if desired == 'running' then
        running[#running + 1] = id
        running[#running + 1] = hash(instance_prefix .. id)
      end
    end
  end
  for _, id in ipairs(stopped) do placed[#placed + 1] = id end
  found[#found + 1] = text_of(service_prefix .. service) or ''
  found[#found + 1] = placed
  found[#found + 1] = running
  found[#found + 1] = active_starts(service)
end
return found
