-- uses: tolerant, revisions
-- Makes a signed spec the current one of a service, and keeps it among its last revisions.
-- Returns 1.
local service, services, revisions = unpack(KEYS)
local id, number, record = unpack(ARGV)

redis.call('SET', service, record)
redis.call('ZADD', services, 0, id)
keep_revision(revisions, number, record)
return 1
