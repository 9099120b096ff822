-- What services were asked to be, and the hosts that have them: those where one is up first, then those where one is down.
--
-- KEYS  the instances
-- ARGV  prefix of services, prefix of instances, the services' ids as a JSON array
-- Gives {record or '', {instance, …}, {wanted instance, …}, record or '', …}, by the order of the services.
local found = {}
for _, service in ipairs(cjson.decode(ARGV[3])) do
  local up, down, wanted = {}, {}, {}
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '[' .. service .. '@', '[' .. service .. '@\255', 'BYLEX')) do
    local instance = redis.call('HMGET', ARGV[2] .. id, 'desired', 'record')
    if instance[2] then
      local is_down = instance[1] == 'stopped' and cjson.decode(instance[2]).state == 'stopped'
      table.insert(is_down and down or up, id)
      if instance[1] == 'running' then wanted[#wanted + 1] = id end
    end
  end
  for _, id in ipairs(down) do up[#up + 1] = id end
  found[#found + 1] = redis.call('GET', ARGV[1] .. service) or ''
  found[#found + 1] = up
  found[#found + 1] = wanted
end
return found
