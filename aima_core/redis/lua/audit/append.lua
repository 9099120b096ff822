-- Appends entries to an audit stream, which is capped. A value of another type in its place is replaced.
-- Returns the number of entries appended.
local stream = unpack(KEYS)
local cap, entries = unpack(ARGV)

if redis.call('TYPE', stream).ok ~= 'stream' then redis.call('DEL', stream) end
local appended = cjson.decode(entries)
for _, entry in ipairs(appended) do
  redis.call('XADD', stream, 'MAXLEN', '~', cap, '*', 'entry', entry)
end
return #appended
