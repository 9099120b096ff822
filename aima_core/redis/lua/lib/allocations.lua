-- The text of an allocation, `memory loading fence gpu,gpu,…`, as `Allocation` in Python reads it, too; nil for another.
local function parse_allocation(text)
  local memory, loading, fence, ids = string.match(text, '^(%d+) (%d) (%-?%d+) (.*)$')
  if not memory then return nil end
  local gpus = {}
  for gpu in string.gmatch(ids, '[^,]+') do gpus[#gpus + 1] = gpu end
  return {memory = tonumber(memory), loading = loading == '1', fence = tonumber(fence), gpus = gpus}
end

local function format_allocation(allocation)
  local loading = allocation.loading and 1 or 0
  local gpus = table.concat(allocation.gpus, ',')
  return string.format('%d %d %d %s', allocation.memory, loading, allocation.fence, gpus)
end
