-- uses: clock
-- Sets the range of ports that a host leases. Leased ports stay leased, also outside of the range.
--
-- A free port has its own number or the end of its last lease as score, a leased one the end to come.
local ports = unpack(KEYS)
local first, last = unpack(ARGV)

redis.call('ZREMRANGEBYSCORE', ports, '-inf', now_ms())
for port = first, last do redis.call('ZADD', ports, 'NX', port, string.format('%d', port)) end
