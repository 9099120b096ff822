-- The revisions of a service: its last signed specs by their number.
local REVISIONS_KEPT = 10

local function keep_revision(revisions, number, record)
  delete_unless('hash', revisions)
  redis.call('HSET', revisions, number, record)
  local numbers = redis.call('HKEYS', revisions)
  table.sort(numbers, function(one, other) return (tonumber(one) or 0) > (tonumber(other) or 0) end)
  for at = REVISIONS_KEPT + 1, #numbers do redis.call('HDEL', revisions, numbers[at]) end
end
