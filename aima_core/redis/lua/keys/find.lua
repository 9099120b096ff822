-- Looks up the record of an API key by the key's digest. A value of another type or an oversized one counts as none.
-- Returns {the record or '', the epoch of the keys or '' if Redis has none: it is new, or has lost its data}.
local all_keys = unpack(KEYS)
local digest, epoch, most_bytes = unpack(ARGV)

if redis.call('TYPE', all_keys).ok ~= 'hash' then return {'', ''} end
local record = redis.call('HGET', all_keys, digest) or ''
if #record > tonumber(most_bytes) then record = '' end
return {record, string.sub(redis.call('HGET', all_keys, epoch) or '', 1, 64)}
