-- Lists the records of all API keys, by the keys' digests, and when each was last used. Oversized values are skipped.
-- Returns {{digest, record, ...}, {id, time of its last use, ...}}.
local all_keys, used = unpack(KEYS)
local epoch, most_bytes = unpack(ARGV)

local function pairs_of(hash)
  local found = {}
  if redis.call('TYPE', hash).ok ~= 'hash' then return found end
  local flat = redis.call('HGETALL', hash)
  for at = 1, #flat, 2 do
    if flat[at] ~= epoch and #flat[at] + #flat[at + 1] <= tonumber(most_bytes) then
      table.insert(found, flat[at])
      table.insert(found, flat[at + 1])
    end
  end
  return found
end

return {pairs_of(all_keys), pairs_of(used)}
