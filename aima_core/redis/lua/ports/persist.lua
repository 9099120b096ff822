-- Hold a leased port for as long as its container lives: from now on only evidence that it is gone ends the lease.
--
-- Written anew if Redis has lost it meanwhile, since the container is the ground truth.
--
-- KEYS  ports, last, the lease keys' prefix
-- ARGV  instance, fence, port
local lease = redis.call('GET', KEYS[3] .. ARGV[3])
local since = redis.call('TIME')[1] * 1000
if lease then
  local held = cjson.decode(lease)
  if held.holder ~= ARGV[1] then return 0 end
  since = held.since
end
redis.call('ZADD', KEYS[1], '+inf', ARGV[3])
redis.call('SET', KEYS[3] .. ARGV[3], '{"holder":"' .. ARGV[1] .. '","fence":' .. ARGV[2] .. ',"since":' .. string.format('%d', since) .. '}')
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1
