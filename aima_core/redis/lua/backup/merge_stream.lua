-- Restores the entries of a stream before newer entries: a stream takes ascending ids only.
-- Returns the number restored.
local stream = unpack(KEYS)
local entries = unpack(ARGV)

local restored = cjson.decode(entries)
if #restored == 0 then return 0 end
local newer = {}
if redis.call('TYPE', stream).ok == 'stream' then
  newer = redis.call('XRANGE', stream, '(' .. restored[#restored][1], '+')
end
redis.call('DEL', stream)
for _, each in ipairs(restored) do redis.call('XADD', stream, each[1], unpack(each[2])) end
for _, each in ipairs(newer) do redis.call('XADD', stream, each[1], unpack(each[2])) end
return #restored
