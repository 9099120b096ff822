-- Put down what an instance is, unless it has been told to be something else since the observer was sent.
--
-- KEYS  instance
-- ARGV  the observer's fence, record
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[2])
return 1
