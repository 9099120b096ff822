-- uses: texts, tolerant
-- Lists the allocations of several hosts, without those hosts that have none.
-- Returns {host, lines, host, …}: a line `service allocation` for each.
local prefix, hosts = unpack(ARGV)

local found = {}
for _, host in ipairs(cjson.decode(hosts)) do
  local held, listed = hash(prefix .. host), {}
  for at = 1, #held, 2 do listed[#listed + 1] = one_line(held[at] .. ' ' .. held[at + 1]) end
  if #listed > 0 then
    found[#found + 1] = host
    found[#found + 1] = table.concat(listed, '\n')
  end
end
return found
