-- What several hosts hold; of those that hold nothing, nothing is said.
--
-- ARGV  prefix of what a host holds, the hosts' names as a JSON array
-- Gives {host, {service, what it holds, …}, host, …}.
local found = {}
for _, host in ipairs(cjson.decode(ARGV[2])) do
  local held = redis.call('HGETALL', ARGV[1] .. host)
  if #held > 0 then
    found[#found + 1] = host
    found[#found + 1] = held
  end
end
return found
