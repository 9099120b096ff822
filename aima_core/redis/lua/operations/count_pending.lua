-- uses: tolerant
-- Counts the operations pending for capacity by route, of the `limit` oldest, and the messages on the queue of each
-- route: a pending operation has no message there.
-- Returns {{route, number, …}, {number of messages, … in the order of `routes`}}.
local waiting = unpack(KEYS)
local operation_prefix, queue_prefix, limit = unpack(ARGV, 1, 3)
local routes = {unpack(ARGV, 4)}

local counts, order = {}, {}
for _, id in ipairs(redis.call('ZRANGE', waiting, 0, limit - 1)) do
  local route = hash_value(operation_prefix .. id, 'route')
  if route then
    if not counts[route] then order[#order + 1] = route end
    counts[route] = (counts[route] or 0) + 1
  end
end
local pending, lengths = {}, {}
for _, route in ipairs(order) do
  pending[#pending + 1] = route
  pending[#pending + 1] = counts[route]
end
for _, route in ipairs(routes) do lengths[#lengths + 1] = length(queue_prefix .. route) end
return {pending, lengths}
