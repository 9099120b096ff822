-- A claim is a lease of claim_ms: one without an end, or with a later one, was not written by a worker, and counts as none.
local function is_claimed(claim, claim_ms)
  local left = redis.call('PTTL', claim)
  return left >= 0 and left <= tonumber(claim_ms)
end
