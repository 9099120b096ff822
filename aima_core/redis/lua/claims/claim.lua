-- uses: clock, allocations, claims, routes, tolerant
-- Claims an operation for a host: a lease of claim_ms, with the resources of a start allocated in the same step.
--
-- A duplicate or late message claims nothing. Admission and allocation are one step, so that two starts never race for
-- the last memory of a host. A start that any host may claim goes to the host that has its service already, so that
-- two starts of one service never run it on two hosts. A claim whose reply was lost is granted again to its token.
--
-- A stop that waits for starts is not claimed before all of them have succeeded.
--
-- `ids_and_memory` are the id and the bytes of each GPU in turn; '' for unknown memory. `model_disk` are the bytes that
-- one more model may take, '' if that is not to be checked. A start whose model takes more is refused even if the host
-- has it: the worker, which knows what is there, then claims it again without the check.
-- Without `slots`, the host admits everything. A record with values that no API node writes is not claimed.
-- Returns {1, record, GPU ids}, {0, reason}, {2, obstacle, record}, {3, host that has the service, record}, or
-- {4, the defect of the record}.
local operation, claim, waiting, host_slots, allocations, drained_hosts, service_hosts = unpack(KEYS)
local id, host, claim_ms, claimable_states, started_at, token = unpack(ARGV, 1, 6)
local operation_prefix, instance_prefix, allocations_prefix = unpack(ARGV, 7, 9)
local slots, memory_limit, memory_available, unified, model_disk = unpack(ARGV, 10, 14)
local ids_and_memory = {unpack(ARGV, 15)}

local state, cancelled, attempt, owner, kind, needs, service, fence, route = unpack(hash_values(operation,
  'state', 'cancel', 'attempt', 'host', 'kind', 'needs', 'service', 'fence', 'route'))
local request = json_object(needs or '{}')
local allocated_gpus, gpus = {}, {}
for at = 1, #ids_and_memory, 2 do
  gpus[#gpus + 1] = {id = ids_and_memory[at], memory = tonumber(ids_and_memory[at + 1])}
end

local without_service = {}
for _, each in ipairs({'pull', 'remove', 'pull-model', 'remove-model', 'pin-model', 'unpin-model', 'prune-models'}) do
  without_service[each] = true
end

local function record() return redis.call('HGETALL', operation) end

local function is_claimable(state) return string.find(claimable_states, ',' .. state .. ',', 1, true) end

local function not_claimable()
  if not state then return {0, 'there is no record of it'} end
  if redis.call('PTTL', operation) >= 0 then return {0, 'it has ended: ' .. state} end
  if cancelled and not attempt then return {0, 'cancelled'} end -- an attempt may have left a container to remove
end

local function awaits_starts()
  local waits = nil
  for start in string.gmatch(hash_value(operation, 'after') or '', '[^,]+') do
    local state = hash_value(operation_prefix .. start, 'state')
    if not state or not is_claimable(state) and state ~= 'succeeded' then return {0, 'its change was not made'} end
    if state ~= 'succeeded' then waits = {0, 'it waits for a start'} end
  end
  return waits
end

local function unreadable()
  if not is_claimable(state) then return {4, 'its state is unknown'} end
  if not request then return {4, 'its needs are no JSON object'} end
  for _, name in ipairs({'memory', 'gpu_memory'}) do
    if type(request[name] or 0) ~= 'number' then return {4, 'its ' .. name .. ' is no number'} end
  end
  local weights = request.weights
  if type(weights) == 'table' and type(weights.size) ~= 'number' then return {4, 'the size of its model is no number'} end
  if request.gpus ~= 'all' and type(request.gpus or 0) ~= 'number' then return {4, 'its gpus are no number'} end
  if not tonumber(fence or nil) then return {4, 'its fence is no number'} end
  if attempt and (#attempt > 9 or not string.find(attempt, '^%d+$')) then return {4, 'its attempt is no number'} end
  if not without_service[kind] and not service or not route then return {4, 'it names no service or no route'} end
end

local function already_claimed()
  if not is_claimed(claim, claim_ms) then return nil end
  local holder = text_of(claim) or 'another writer'
  if redis.call('HGET', operation, 'claimed_by') == token then -- the reply to this claim was lost
    local text = redis.call('HGET', allocations, service or '')
    return {1, record(), (parse_allocation(text or '') or {gpus = {}}).gpus}
  end
  return {0, 'it is held by ' .. holder}
end

-- The last host of the service has it while the start that was sent there by name has not ended, and while it holds an
-- allocation that no later stop has been asked for. One that is stopped under the fence of its allocation has lost its
-- operation to another host.
local function has_service(other)
  local desired, desired_fence, asked_by =
    unpack(hash_values(instance_prefix .. instance_on(service, other), 'desired', 'fence', 'asked_by'))
  local start_state = desired == 'running' and asked_by and hash_value(operation_prefix .. asked_by, 'state')
  if start_state and is_claimable(start_state) then return true end
  local held = parse_allocation(hash_value(allocations_prefix .. other, service) or '')
  if not held then return false end
  return desired ~= 'stopped' or (tonumber(desired_fence) or 0) < held.fence
end

local function placed_elsewhere()
  if owner == host then return nil end
  if owner then
    local forged = route and leads_to_one_host(route) and route ~= route_to(owner)
    return forged and {4, 'it names another host than its route'} or {0, 'it is ' .. owner .. "'s"}
  end
  if kind ~= 'start' or leads_to_one_host(route) then return nil end
  local other = redis.call('HGET', service_hosts, service)
  if other and other ~= host and has_service(other) then return {3, other, record()} end
end

local function use_of_other_services()
  local use = {memory = 0, memory_loading = 0, loading_on_gpus = false, gpus = {}}
  local all = redis.call('HGETALL', allocations)
  for at = 1, #all, 2 do
    local other = parse_allocation(all[at + 1])
    if other and all[at] ~= service then
      use.memory = use.memory + other.memory
      if other.loading then
        use.memory_loading = use.memory_loading + other.memory
        use.loading_on_gpus = use.loading_on_gpus or #other.gpus > 0
      end
      for _, gpu in ipairs(other.gpus) do use.gpus[gpu] = true end
    end
  end
  return use
end

-- The first `count` GPUs, by their ids; nil if their memory does not suffice. Unknown memory is left to the engine.
local function first_gpus(usable, count, shares_memory)
  local ids, memory = {}, shares_memory and math.huge or 0
  for at = 1, count do
    ids[at] = usable[at].id
    memory = memory + (usable[at].memory or math.huge)
  end
  return memory >= (request.gpu_memory or 0) and ids or nil
end

-- GPUs of the running revision come first: they stay allocated; else the biggest, if others are too small. Devices that
-- are slices of a GPU (MIG) are used alone. As `choose_gpus` in `scheduling/feasibility.py`.
-- Returns their ids, or nil and the obstacle.
local function choose_gpus(gpus_in_use, previous, shares_memory)
  local usable, own, count = {}, {}, request.gpus == 'all' and math.max(#gpus, 1) or request.gpus
  for _, id in ipairs(previous and previous.gpus or {}) do own[id] = true end
  for _, preferred in ipairs({true, false}) do
    for _, gpu in ipairs(gpus) do
      local alone = string.sub(gpu.id, 1, 4) == 'MIG-' and count > 1
      if not alone and not gpus_in_use[gpu.id] and (own[gpu.id] or false) == preferred then usable[#usable + 1] = gpu end
    end
  end
  if #usable < count then return nil, 'gpus' end
  local ids = first_gpus(usable, count, shares_memory)
  if ids then return ids end
  table.sort(usable, function(one, other) return (one.memory or math.huge) > (other.memory or math.huge) end)
  ids = first_gpus(usable, count, shares_memory)
  return ids, not ids and 'gpu_memory'
end

local function lacks_disk()
  local weights = request.weights
  return type(weights) == 'table' and weights.size > (tonumber(model_disk) or math.huge)
end

-- The allocation of the running revision stays reserved until this start is ready, so that it can be restored.
local function with_previous(memory, gpus, previous)
  local held, seen = {unpack(gpus)}, {}
  for _, gpu in ipairs(gpus) do seen[gpu] = true end
  for _, gpu in ipairs(previous and previous.gpus or {}) do
    if not seen[gpu] then held[#held + 1] = gpu end
  end
  return math.max(memory, previous and previous.memory or 0), held
end

local function allocate()
  local text = redis.call('HGET', allocations, service)
  local is_new, previous = not text, parse_allocation(text or '')
  if is_new and redis.call('HEXISTS', drained_hosts, host) == 1 then return 'drained' end
  if lacks_disk() then return 'disk' end
  local shares_memory, use = unified == '1', use_of_other_services()
  local memory = (request.memory or 0) + (shares_memory and request.gpu_memory or 0)
  local fits = use.memory + memory <= tonumber(memory_limit)
  local freed = previous and not previous.loading and previous.memory or 0 -- its container is removed first
  local loads = use.memory_loading + math.max(0, memory - freed)
  if not fits or loads > tonumber(memory_available) then return 'memory' end
  if (request.gpus or 0) ~= 0 then
    if shares_memory and use.loading_on_gpus then return 'loading' end
    local chosen, obstacle = choose_gpus(shares_memory and {} or use.gpus, previous, shares_memory)
    if not chosen then return obstacle end
    allocated_gpus = chosen
  end
  local held_memory, held_gpus = with_previous(memory, allocated_gpus, previous)
  local allocation = {memory = held_memory, loading = true, fence = fence, gpus = held_gpus}
  redis.call('HSET', allocations, service, format_allocation(allocation))
end

local function admit()
  if kind == 'stop' or not slots then return nil end
  local now = now_ms()
  redis.call('ZREMRANGEBYSCORE', host_slots, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', host_slots, '(' .. now + claim_ms, '+inf') -- no worker claims for longer
  local obstacle = redis.call('ZCARD', host_slots) >= tonumber(slots) and 'slots' or kind == 'start' and allocate()
  if obstacle then
    redis.call('ZADD', waiting, 'NX', now, id)
    return {2, obstacle, record()}
  end
  redis.call('ZADD', host_slots, now + claim_ms, id)
  if kind == 'start' then redis.call('HSET', service_hosts, service, host) end
end

local function grant()
  local attempt = redis.call('HINCRBY', operation, 'attempt', 1)
  redis.call('SET', claim, host .. ' in attempt ' .. attempt, 'PX', claim_ms)
  redis.call('HSET', operation, 'host', host, 'state', 'running', 'claimed_by', token)
  redis.call('HSETNX', operation, 'started_at', started_at)
  redis.call('ZREM', waiting, id)
  return {1, record(), allocated_gpus}
end

return not_claimable() or unreadable() or awaits_starts() or already_claimed() or placed_elsewhere() or admit() or grant()
