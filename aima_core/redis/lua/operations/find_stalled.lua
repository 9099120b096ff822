-- Find the operations that somebody should be carrying out and nobody does; each is given to one asker only.
--
-- A doorbell may be lost, and a worker may die: whoever is given one here rings for it again. Where doorbells wait in
-- the queue, its own may be among them, and is not rung again; nor for those that wait for room, which hosts look for.
--
-- KEYS  the active operations, those waiting, hosts by when they were seen
-- ARGV  milliseconds until one is looked at again, how many, prefix of records, of claims, of queues, seconds after which
--       a silent host is dead
-- Gives {how many wait for room, {id, …} of those that wait, there or on their queue, and were told no reason, id,
-- queue, id, queue, …}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local unheard = {}
local found = {redis.call('ZCARD', KEYS[2]), unheard}

local function silent(host)
  return now / 1000 - (redis.call('ZSCORE', KEYS[3], host) or 0) > tonumber(ARGV[6])
end

for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  local told = redis.call('HMGET', ARGV[3] .. id, 'state', 'queue', 'host', 'kind', 'reason')
  if not told[1] or redis.call('PTTL', ARGV[3] .. id) >= 0 then
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  else
    redis.call('ZADD', KEYS[1], now + ARGV[1], id)
    local queue = told[2]
    if told[3] and told[4] ~= 'stop' then queue = 'host.' .. told[3] end
    local has_no_reason = (told[5] or '') == ''
    local waits = not told[3] and redis.call('ZSCORE', KEYS[2], id)
    if waits and has_no_reason then unheard[#unheard + 1] = id end
    local cared_for = waits
      or redis.call('EXISTS', ARGV[4] .. id) == 1
      or (told[3] and silent(told[3]))
      or not queue
    if not cared_for and redis.call('LLEN', ARGV[5] .. queue) > 0 then
      if has_no_reason then unheard[#unheard + 1] = id end
    elseif not cared_for then
      found[#found + 1] = id
      found[#found + 1] = queue
    end
  end
end
return found
