-- uses: tolerant, revisions
-- Restores the signed spec of a service, or makes a candidate the current one, unless its record has changed since the caller read it (optimistic lock).
--
-- `expected` is the record that was read; '' for none, or one of another type, which another writer made.
-- Returns 1, or 0 if the record has changed.
local service, services, revisions = unpack(KEYS)
local id, expected, number, record = unpack(ARGV)

if (redis.call('MGET', service)[1] or '') ~= expected then return 0 end
redis.call('SET', service, record)
redis.call('ZADD', services, 0, id)
keep_revision(revisions, number, record)
return 1
