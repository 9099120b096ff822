-- uses: tolerant
-- Releases every claim of a host whose worker has died, so that its successor resumes them without waiting for expiry.
-- Returns {id, …}: the operations that were claimed.
local active, host_slots = unpack(KEYS)
local host, operation_prefix, claim_prefix = unpack(ARGV)

local released = {}
for _, id in ipairs(redis.call('ZRANGE', active, 0, -1)) do
  local owner, attempt = unpack(hash_values(operation_prefix .. id, 'host', 'attempt'))
  if owner == host and attempt then
    redis.call('DEL', claim_prefix .. id)
    released[#released + 1] = id
  end
end
redis.call('DEL', host_slots)
return released
