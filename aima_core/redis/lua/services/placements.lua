-- uses: routes, tolerant
-- Returns the records of services, with their signed specs, and their instances, in the order of the services; stopped
-- instances come last:
-- {record or '', {instance, …}, {instance desired to run, …}, record or '', …}.
local instances = unpack(KEYS)
local service_prefix, instance_prefix, service_ids = unpack(ARGV)

local found = {}
for _, service in ipairs(cjson.decode(service_ids)) do
  local placed, stopped, running = {}, {}, {}
  for _, id in ipairs(instances_of(service, instances)) do
    local desired, record = unpack(hash_values(instance_prefix .. id, 'desired', 'record'))
    if record then
      local is_stopped = desired == 'stopped' and (json_object(record) or {}).state == 'stopped'
      table.insert(is_stopped and stopped or placed, id)
      if desired == 'running' then running[#running + 1] = id end
    end
  end
  for _, id in ipairs(stopped) do placed[#placed + 1] = id end
  found[#found + 1] = text_of(service_prefix .. service) or ''
  found[#found + 1] = placed
  found[#found + 1] = running
end
return found
