-- Services by id, each with its instances, as JSON that need not be taken apart again: a listing of hundreds is asked
-- for again and again.
--
-- What a host said of an instance before it fell silent may be true no longer: the instance is told as unknown, but
-- where nothing is left of it anyway.
--
-- KEYS  the services, the instances, hosts by when they were seen
-- ARGV  prefix of services, prefix of instances, where to begin and to end (as ZRANGE … BYLEX has it), how many,
--       milliseconds after which a silent host is dead, the states in which nothing is left (comma-separated)
-- Gives {the id to go on after or '', the services with a comma between them}.
local time = redis.call('TIME')
local alive_since = time[1] + time[2] / 1e6 - ARGV[6] / 1000
local alive = {}

local function lives(host)
  if alive[host] == nil then
    alive[host] = tonumber(redis.call('ZSCORE', KEYS[3], host) or 0) > alive_since
  end
  return alive[host]
end

local function as_far_as_known(record, host)
  if lives(host) then return record end
  local state = string.match(record, '"state":"(%l+)"') -- no other comes before it, and texts have their quotes escaped
  if string.find(ARGV[7], ',' .. state .. ',', 1, true) then return record end
  return (string.gsub(record, '"state":"%l+"', '"state":"unknown"', 1))
end

local text = {}

local function add(said) text[#text + 1] = said end

local function add_instances_of(service)
  local comma = ''
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], '[' .. service .. '@', '[' .. service .. '@\255', 'BYLEX')) do
    local is = redis.call('HMGET', ARGV[2] .. id, 'record', 'fence', 'desired')
    if is[1] then
      local record = as_far_as_known(is[1], string.sub(id, #service + 2))
      add(comma .. string.sub(record, 1, -2) .. ',"fence":' .. is[2] .. ',"desired":"' .. is[3] .. '"}')
      comma = ','
    end
  end
end

local ids = redis.call('ZRANGE', KEYS[1], ARGV[3], ARGV[4], 'BYLEX', 'LIMIT', 0, ARGV[5] + 1)
local after, comma = '', ''
if #ids > tonumber(ARGV[5]) then
  ids[#ids] = nil
  after = ids[#ids]
end
local places = {}
for at, id in ipairs(ids) do places[at] = ARGV[1] .. id end
local records = #ids > 0 and redis.call('MGET', unpack(places)) or {}
for at, id in ipairs(ids) do
  if records[at] then
    add(comma .. string.sub(records[at], 1, -2) .. ',"instances":[')
    add_instances_of(id)
    add(']}')
    comma = ','
  end
end
return {after, table.concat(text)}
