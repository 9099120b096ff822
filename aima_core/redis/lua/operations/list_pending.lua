-- uses: tolerant
-- Lists the operations that wait for capacity, oldest first, and drops ended and expired ones.
-- Returns {id, record, id, record, …}.
local waiting = unpack(KEYS)
local limit, operation_prefix = unpack(ARGV)

local found = {}
for _, id in ipairs(redis.call('ZRANGE', waiting, 0, limit - 1)) do
  local record = hash(operation_prefix .. id)
  if #record == 0 or redis.call('PTTL', operation_prefix .. id) >= 0 then
    redis.call('ZREM', waiting, id)
  else
    found[#found + 1] = id
    found[#found + 1] = record
  end
end
return found
