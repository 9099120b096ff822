-- Restores the fields that a hash lacks; present fields are newer than the backup.
-- Returns the number restored.
local hash = unpack(KEYS)
local fields = unpack(ARGV)

if redis.call('TYPE', hash).ok ~= 'hash' then redis.call('DEL', hash) end
local restored = 0
for field, value in pairs(cjson.decode(fields)) do
  restored = restored + redis.call('HSETNX', hash, field, value)
end
return restored
