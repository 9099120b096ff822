-- uses: claims, tolerant
-- Requests that an operation be cancelled, because of a later one or, if `superseded_by` is empty, of a person. The worker that holds its claim sees the mark when it renews; without a
-- claim, the caller may end the operation at once.
-- Returns 'lost' (no record), 'ended', 'held' or 'free'.
local operation, claim = unpack(KEYS)
local claim_ms, superseded_by = unpack(ARGV)

local state = hash_value(operation, 'state')
if not state then return 'lost' end
if redis.call('PTTL', operation) >= 0 then return 'ended' end
redis.call('HSET', operation, 'cancel', '1')
if superseded_by ~= '' then redis.call('HSETNX', operation, 'superseded_by', superseded_by) end
return is_claimed(claim, claim_ms) and 'held' or 'free'
