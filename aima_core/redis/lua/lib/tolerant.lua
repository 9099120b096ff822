-- Reads of records that another writer may have replaced: a key of another type counts as none.
local function unless_wrong_type(reply, none)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err) end
  return none
end

local function hash_values(key, ...) return unless_wrong_type(redis.pcall('HMGET', key, ...), {}) end

local function hash(key) return unless_wrong_type(redis.pcall('HGETALL', key), {}) end

local function hash_value(key, field) return unless_wrong_type(redis.pcall('HGET', key, field), false) end

local function text_of(key) return unless_wrong_type(redis.pcall('GET', key), false) end

local function set(key) return unless_wrong_type(redis.pcall('SMEMBERS', key), {}) end

local function length(key) return unless_wrong_type(redis.pcall('LLEN', key), 0) end

-- The decoded JSON object; nil if the text is none.
local function json_object(text)
  local parsed, object = pcall(cjson.decode, text)
  return parsed and type(object) == 'table' and object or nil
end

-- Makes way for a record of the right type: what another writer put there is not AIMA's.
local function delete_unless(type, key)
  local found = redis.call('TYPE', key).ok
  if found ~= type and found ~= 'none' then redis.call('DEL', key) end
end

-- Sets fields of a hash; a key of another type makes way for it.
local function set_fields(key, ...)
  local reply = unless_wrong_type(redis.pcall('HSET', key, ...), 'another type')
  if reply == 'another type' then
    redis.call('DEL', key)
    redis.call('HSET', key, ...)
  end
end
