-- uses: tolerant
-- Updates the status of an instance, unless its desired state has changed since (fencing).
-- Returns 1, or 0 if superseded.
local instance = unpack(KEYS)
local fence, record = unpack(ARGV)

if hash_value(instance, 'fence') ~= fence then return 0 end
redis.call('HSET', instance, 'record', record)
return 1
