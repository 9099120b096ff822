-- Lists the allocations of several hosts, without those hosts that have none.
-- Returns {host, {service, allocation, …}, host, …}.
local prefix, hosts = unpack(ARGV)

local found = {}
for _, host in ipairs(cjson.decode(hosts)) do
  local held = redis.call('HGETALL', prefix .. host)
  if #held > 0 then
    found[#found + 1] = host
    found[#found + 1] = held
  end
end
return found
