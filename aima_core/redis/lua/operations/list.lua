-- One page of an index with its records, the last entries first, in one round trip; entries whose record has expired are dropped from it.
--
-- An entry is an id, or a sort key, a blank and the id.
--
-- KEYS  index
-- ARGV  record prefix, the entry to go on after or '', how many, how many to look at, then
--       field, value, … that records must have
-- Gives {the entry to go on after or '', id, its fields and values, id, …}.
local after, want, budget = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local page = {''}
local found = 0
while found < want and budget > 0 do
  local from = (after == '') and '+' or '(' .. after
  local count = math.min(budget, want * 2)
  local entries = redis.call('ZRANGE', KEYS[1], from, '-', 'BYLEX', 'REV', 'LIMIT', 0, count)
  if #entries == 0 then after = '' break end
  budget = budget - #entries
  for place, entry in ipairs(entries) do
    after = entry
    local id = string.match(entry, '[^ ]+$')
    local record = redis.call('HGETALL', ARGV[1] .. id)
    if #record == 0 then
      redis.call('ZREM', KEYS[1], entry)
    else
      local has = {}
      for at = 1, #record, 2 do has[record[at]] = record[at + 1] end
      local fits = true
      for at = 5, #ARGV, 2 do fits = fits and has[ARGV[at]] == ARGV[at + 1] end
      if fits then
        page[#page + 1] = id
        page[#page + 1] = record
        found = found + 1
        if found == want then break end
      end
    end
  end
end
page[1] = after
return page
