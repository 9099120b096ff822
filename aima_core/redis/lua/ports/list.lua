-- uses: tolerant
-- Lists the port leases in force on all hosts.
--
-- `highest` is the highest port number: a free port that was never leased has its own number as score.
-- Returns {host, its leases, host, …}: three lines for each lease, with port, end and lease, `end` in ms or `inf`.
local hosts = unpack(KEYS)
local ports_prefix, lease_prefix, highest = unpack(ARGV)

local function leases_on(host)
  local found = unless_wrong_type(
    redis.pcall('ZRANGE', ports_prefix .. host, '(' .. highest, '+inf', 'BYSCORE', 'WITHSCORES'), {})
  if #found == 0 then return '' end
  local keys, parts, prefix = {}, {}, lease_prefix .. host .. ':'
  for at = 1, #found, 2 do keys[(at + 1) / 2] = prefix .. found[at] end
  for at, lease in ipairs(redis.call('MGET', unpack(keys))) do
    if lease and not string.find(lease, '\n', 1, true) then
      local size = #parts
      parts[size + 1], parts[size + 2], parts[size + 3] = found[2 * at - 1], found[2 * at], lease
    end
  end
  return table.concat(parts, '\n')
end

local listing = {}
for _, host in ipairs(redis.call('HKEYS', hosts)) do
  listing[#listing + 1] = host
  listing[#listing + 1] = leases_on(host)
end
return listing
