-- Routes and instance ids: `host.<name>` leads to one host, `<service>@<host>` is the instance of a service there.
local function route_to(host) return 'host.' .. host end

local function leads_to_one_host(route) return string.sub(route, 1, 5) == 'host.' end

local function instance_on(service, host) return service .. '@' .. host end

local function instances_of(service, instances)
  return redis.call('ZRANGE', instances, '[' .. service .. '@', '[' .. service .. '@\255', 'BYLEX')
end
