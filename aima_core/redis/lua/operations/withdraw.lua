-- uses: clock, tolerant
-- Removes the messages of ended operations from a queue whose route has no live consumer: no worker would read them,
-- and redelivery skips a queue with messages.
--
-- Where a consumer is live, it reads the messages and skips the operations, which costs less than looking for them.
-- Returns the number of messages removed.
local queue, routes_seen = unpack(KEYS)
local route, served_within_ms, chunk = unpack(ARGV, 1, 3)
local ids = {unpack(ARGV, 4)}
local ended = {}
for _, id in ipairs(ids) do ended[id] = true end

local last_served = tonumber(redis.call('ZSCORE', routes_seen, route) or '0')
if now_ms() - last_served < tonumber(served_within_ms) then return 0 end

local found = {}
for from = 0, length(queue) - 1, chunk do
  for _, message in ipairs(redis.call('LRANGE', queue, from, from + chunk - 1)) do
    if ended[string.match(message, '"id": "([%x-]+)"')] then found[#found + 1] = message end
  end
end
local removed = 0
for _, message in ipairs(found) do removed = removed + redis.call('LREM', queue, 0, message) end
return removed
