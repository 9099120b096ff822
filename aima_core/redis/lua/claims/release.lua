-- uses: tolerant
-- Releases a claim and its slot. The allocation of a start stays until its container is gone.
-- Returns 1, or 0 if another attempt holds the claim by now.
local operation, claim, host_slots = unpack(KEYS)
local id, attempt, host, to_any_host = unpack(ARGV)

if text_of(claim) ~= host .. ' in attempt ' .. attempt then return 0 end
redis.call('DEL', claim)
redis.call('ZREM', host_slots, id)
if to_any_host == '1' then redis.call('HDEL', operation, 'host') end
return 1
