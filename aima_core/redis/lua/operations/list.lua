-- uses: tolerant
-- Lists one page of an index with its records, newest first, and drops index entries whose record has expired.
--
-- An entry is an id, or a sort key, a blank and the id. `filters` are the fields and values that records must have.
-- Returns {the entry after which the next page starts or '', id, record, id, …}.
local index = unpack(KEYS)
local operation_prefix, after, limit, budget = unpack(ARGV, 1, 4)
local filters = {unpack(ARGV, 5)}
limit, budget = tonumber(limit), tonumber(budget)

local function matches(record)
  local value_of = {}
  for at = 1, #record, 2 do value_of[record[at]] = record[at + 1] end
  for at = 1, #filters, 2 do
    if value_of[filters[at]] ~= filters[at + 1] then return false end
  end
  return true
end

local function add(page, entry)
  local id = string.match(entry, '[^ ]*$')
  local record = hash(operation_prefix .. id)
  if #record == 0 then
    redis.call('ZREM', index, entry)
  elseif matches(record) then
    page[#page + 1] = id
    page[#page + 1] = record
  end
end

local page = {''}
while #page < 1 + 2 * limit and budget > 0 do
  local from = after == '' and '+' or '(' .. after
  local count = math.min(budget, limit * 2)
  local entries = redis.call('ZRANGE', index, from, '-', 'BYLEX', 'REV', 'LIMIT', 0, count)
  if #entries == 0 then after = '' break end
  budget = budget - #entries
  for _, entry in ipairs(entries) do
    after = entry
    add(page, entry)
    if #page == 1 + 2 * limit then break end
  end
end
page[1] = after
return page
