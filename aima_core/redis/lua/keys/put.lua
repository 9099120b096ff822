-- Stores the record of an API key. A value of another type is replaced: it holds no key.
-- Returns 1.
local all_keys = unpack(KEYS)
local digest, record, epoch, new_epoch = unpack(ARGV)

if redis.call('TYPE', all_keys).ok ~= 'hash' then redis.call('DEL', all_keys) end
redis.call('HSETNX', all_keys, epoch, new_epoch) -- set only if Redis has none: it is new, or has lost its data
redis.call('HSET', all_keys, digest, record)
return 1
