-- Give back the port an instance holds, and no other.
--
-- Checked here rather than in Python: between a GET and a DEL a lease can expire and be taken by the next
-- instance, and the DEL would then take that instance's port away.
--
-- KEYS  ports, last, the lease keys' prefix
-- ARGV  instance, the highest fence that may be given back
local port = redis.call('HGET', KEYS[2], ARGV[1])
local lease = port and redis.call('GET', KEYS[3] .. port)
if not lease then return 0 end
local held = cjson.decode(lease)
if held.holder ~= ARGV[1] or held.fence > tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[3] .. port)
redis.call('ZADD', KEYS[1], port, port)
return 1
