-- uses: routes, texts, tolerant
-- Returns the records of services, with their signed specs, their instances, and the starts that have not ended, in the
-- order of the services: {record or '', instances, those desired to run, {start, its record, …}, record or '', …}.
-- Instances are a line each, stopped ones the last; after the id of one that is desired to run comes its JSON.
local instances = unpack(KEYS)
local service_prefix, instance_prefix, operation_prefix, starts_prefix, service_ids = unpack(ARGV)

local function active_starts(service)
  local found, starts = {}, hash(starts_prefix .. service)
  for at = 1, #starts, 2 do
    local id = starts[at]
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
    local record, fence, desired = unpack(hash_values(instance_prefix .. id, 'record', 'fence', 'desired'))
    if record then
      local is_stopped = desired == 'stopped' and (json_object(record) or {}).state == 'stopped'
      table.insert(is_stopped and stopped or placed, one_line(id))
      if desired == 'running' then
        running[#running + 1] = one_line(id .. ' ' .. instance_json(record, fence, desired))
      end
    end
  end
  for _, id in ipairs(stopped) do placed[#placed + 1] = id end
  found[#found + 1] = text_of(service_prefix .. service) or ''
  found[#found + 1] = table.concat(placed, '\n')
  found[#found + 1] = table.concat(running, '\n')
  found[#found + 1] = active_starts(service)
end
return found
