-- Appends entries to an audit stream, which is capped. A key of another type is replaced, and a stream
-- whose last id is the highest possible one: neither would ever take an entry again.
-- Returns the number of entries appended.
local stream = unpack(KEYS)
local cap, entries = unpack(ARGV)

if redis.call('TYPE', stream).ok ~= 'stream' then redis.call('DEL', stream) end
local appended = cjson.decode(entries)
for _, entry in ipairs(appended) do
  local added = redis.pcall('XADD', stream, 'MAXLEN', '~', cap, '*', 'entry', entry)
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'exhausted') and not string.find(added.err, 'equal or smaller') then return added end
    redis.call('DEL', stream)
    redis.call('XADD', stream, '*', 'entry', entry)
  end
end
return #appended
