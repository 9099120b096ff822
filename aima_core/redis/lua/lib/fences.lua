-- The counter of fencing tokens: the next token is higher than every one seen.
local function raise_fence(counter, seen)
  if tonumber(redis.call('GET', counter) or '0') >= tonumber(seen) then return 0 end
  redis.call('SET', counter, seen)
  return 1
end
