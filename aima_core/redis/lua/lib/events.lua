-- Appends an event to its operation's log and to the common log, and publishes it with its id in the common log.
local function publish_event(id, seq, event, log, log_cap, common_log, common_log_cap, channel)
  redis.call('XADD', log, 'MAXLEN', '~', log_cap, seq .. '-0', 'event', event)
  local entry =
    redis.call('XADD', common_log, 'MAXLEN', '~', common_log_cap, '*', 'operation', id, 'seq', seq, 'event', event)
  redis.call('PUBLISH', channel, id .. ' ' .. seq .. ' ' .. entry .. ' ' .. event)
end
