-- uses: clock, tolerant
-- Renews a claim and its slot for claim_ms, and reports whether the attempt is still valid. An ended operation is not
-- renewed: its worker is about to see the end.
-- Returns 'go on', 'cancel' (requested), 'lost' (superseded by another attempt), or 'gone' (no record).
local operation, claim, host_slots = unpack(KEYS)
local id, attempt, host, claim_ms = unpack(ARGV)

local latest, cancelled, kind = unpack(hash_values(operation, 'attempt', 'cancel', 'kind'))
if not latest then return 'gone' end
if latest ~= attempt then return 'lost' end
local ended = redis.call('PTTL', operation) >= 0
if not ended then redis.call('SET', claim, host .. ' in attempt ' .. attempt, 'PX', claim_ms) end
if not ended and kind ~= 'stop' then redis.call('ZADD', host_slots, now_ms() + claim_ms, id) end
return cancelled and 'cancel' or 'go on'
