-- Take an operation on, unless it has ended, somebody holds it, it is another host's, or this one has no room for it.
--
-- A message that comes twice or late does nothing. What a start needs is given to its service here, in the same step
-- in which it is looked whether the host has it: so two starts never both take the last of it. One that any host may
-- take goes to the one that has its service already: so two starts of one service never bring it up twice.
--
-- KEYS  operation, its claim, those waiting, the host's slots, what the host holds, the drained hosts, the host of each
--       service, prefix of what hosts hold, of instances, of operations
-- ARGV  id, host, milliseconds the claim lasts, the states in which it may be claimed (comma-separated), the time,
--       a word of this claim's own, slots, bytes for engines in all, bytes available now, '1' if GPUs share them, the GPUs' ids, …
--       (without slots, the host has room for anything)
-- Gives {1, the record, the ids of the GPUs given}, {0, why not}, {2, what it lacks, the record}, or {3, the host that
-- has its service, the record}.
local field =
  redis.call('HMGET', KEYS[1], 'state', 'cancel', 'attempt', 'host', 'kind', 'needs', 'service', 'fence', 'route')
local state, cancelled, attempted, owner, kind = field[1], field[2], field[3], field[4], field[5]
if not state then return {0, 'there is no record of it'} end
if not string.find(ARGV[4], ',' .. state .. ',', 1, true) then return {0, 'it has ended: ' .. state} end
if cancelled and not attempted then return {0, 'cancelled'} end -- after a first attempt there may be something to clear away
local holder = redis.call('GET', KEYS[2])
if holder and redis.call('HGET', KEYS[1], 'claimed_by') == ARGV[6] then -- asked again, since the answer was lost
  local gpus, held = {}, redis.call('HGET', KEYS[5], field[7] or '')
  for gpu in string.gmatch(held and string.match(held, '[^ ]*$') or '', '[^,]+') do gpus[#gpus + 1] = gpu end
  return {1, redis.call('HGETALL', KEYS[1]), gpus}
end
if holder then return {0, 'it is held by ' .. holder} end
if owner and owner ~= ARGV[2] then return {0, 'it is ' .. owner .. "'s"} end

-- Whoever was given room for the service has it, until that is given back, or a later operation has asked for its end;
-- and whoever it was sent to by name, until that has ended.
local function who_has_it()
  local other = redis.call('HGET', KEYS[7], field[7])
  if not other or other == ARGV[2] then return nil end
  local told = redis.call('HMGET', KEYS[9] .. field[7] .. '@' .. other, 'desired', 'fence', 'asked_by')
  local asked = told[1] == 'running' and told[3] and redis.call('HGET', KEYS[10] .. told[3], 'state')
  if asked and string.find(ARGV[4], ',' .. asked .. ',', 1, true) then return other end
  local held = redis.call('HGET', KEYS[8] .. other, field[7])
  if not held then return nil end
  local given_by = tonumber(string.match(held, '^%d+ %d (%-?%d+)'))
  if told[1] == 'stopped' and tonumber(told[2]) > given_by then return nil end
  return other
end

if kind == 'start' and not owner and string.sub(field[9], 1, 5) ~= 'host.' then
  local other = who_has_it()
  if other then return {3, other, redis.call('HGETALL', KEYS[1])} end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local given = {}

local function short_of(others)
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
  if redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[7]) then return 'slots' end
  if kind ~= 'start' then return nil end
  local is_there = redis.call('HEXISTS', KEYS[5], field[7]) == 1
  if not is_there and redis.call('HEXISTS', KEYS[6], ARGV[2]) == 1 then return 'drained' end

  local needs, unified = cjson.decode(field[6] or '{}'), ARGV[10] == '1'
  local wanted = (needs.memory or 0) + (unified and needs.gpu_memory or 0)
  local held, not_yet_taken, loads, in_use = 0, 0, false, {}
  for _, text in pairs(others) do
    local memory, loading, gpus = string.match(text, '^(%d+) (%d) %-?%d+ (.*)$')
    held = held + memory
    if loading == '1' then
      not_yet_taken = not_yet_taken + memory
      loads = loads or gpus ~= ''
    end
    for gpu in string.gmatch(gpus, '[^,]+') do in_use[gpu] = true end
  end
  if held + wanted > tonumber(ARGV[8]) or not_yet_taken + wanted > tonumber(ARGV[9]) then return 'memory' end

  local count = needs.gpus or 0
  if count ~= 0 then
    if unified and loads then return 'load' end
    for at = 11, #ARGV do
      if unified or not in_use[ARGV[at]] then given[#given + 1] = ARGV[at] end
    end
    local least = count == 'all' and #ARGV - 10 or count
    if #given == 0 or #given < least then return 'gpus' end
    for at = #given, least + 1, -1 do given[at] = nil end
  end
  redis.call('HSET', KEYS[5], field[7], string.format('%d 1 %s %s', wanted, field[8], table.concat(given, ',')))
end

if kind ~= 'stop' and ARGV[7] then
  local others = {}
  local all = redis.call('HGETALL', KEYS[5])
  for at = 1, #all, 2 do
    if all[at] ~= field[7] then others[all[at]] = all[at + 1] end
  end
  local lacks = short_of(others)
  if lacks then
    redis.call('ZADD', KEYS[3], 'NX', now, ARGV[1])
    return {2, lacks, redis.call('HGETALL', KEYS[1])}
  end
  redis.call('ZADD', KEYS[4], now + ARGV[3], ARGV[1])
  if kind == 'start' then redis.call('HSET', KEYS[7], field[7], ARGV[2]) end
end

local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('SET', KEYS[2], ARGV[2] .. ' in attempt ' .. attempt, 'PX', ARGV[3])
redis.call('HSET', KEYS[1], 'host', ARGV[2], 'state', 'running', 'claimed_by', ARGV[6])
redis.call('HSETNX', KEYS[1], 'started_at', ARGV[5])
redis.call('ZREM', KEYS[3], ARGV[1])
return {1, redis.call('HGETALL', KEYS[1]), given}
