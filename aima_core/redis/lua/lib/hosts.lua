-- A host is live while its last heartbeat, a time in seconds, is younger than dead_ms; one in the future is forged.
local function is_live(hosts_seen, host, dead_ms)
  local seen = tonumber(redis.call('ZSCORE', hosts_seen, host) or '0')
  return math.abs(now_ms() - seen * 1000) < tonumber(dead_ms)
end
