-- Take an operation on, unless it has ended or somebody holds it: a message that comes twice or late does nothing.
--
-- KEYS  operation, its claim
-- ARGV  host, milliseconds the claim lasts, the states in which it may be claimed (comma-separated), the time
-- Gives {1, the record} when claimed, {0, why not}; 'cancelled' when it is to end before anybody takes it on.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {0, 'there is no record of it'} end
if not string.find(ARGV[3], ',' .. state .. ',', 1, true) then return {0, 'it has ended: ' .. state} end
local told = redis.call('HMGET', KEYS[1], 'cancel', 'attempt')
if told[1] and not told[2] then return {0, 'cancelled'} end -- after a first attempt there may be something to clear away
local holder = redis.call('GET', KEYS[2])
if holder then return {0, 'it is held by ' .. holder} end

local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('SET', KEYS[2], ARGV[1] .. ' in attempt ' .. attempt, 'PX', ARGV[2])
redis.call('HSET', KEYS[1], 'host', ARGV[1], 'state', 'running')
redis.call('HSETNX', KEYS[1], 'started_at', ARGV[4])
return {1, redis.call('HGETALL', KEYS[1])}
