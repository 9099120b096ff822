-- Appends an event to its operation's log and to the common log, and publishes it with its id in the common log.

-- A log that takes no entry was written by something else, such as one of another type: it is replaced.
local function append_to(log, ...)
  local entry = redis.pcall('XADD', log, ...)
  if type(entry) ~= 'table' then return entry end
  if not string.find(entry.err, 'WRONGTYPE', 1, true) and not string.find(entry.err, 'XADD', 1, true) then
    error(entry.err)
  end
  redis.call('DEL', log)
  return redis.call('XADD', log, ...)
end

local function publish_event(id, seq, event, log, log_cap, common_log, common_log_cap, channel)
  append_to(log, 'MAXLEN', '~', log_cap, seq .. '-0', 'event', event)
  local entry = append_to(common_log, 'MAXLEN', '~', common_log_cap, '*', 'operation', id, 'seq', seq, 'event', event)
  redis.call('PUBLISH', channel, id .. ' ' .. seq .. ' ' .. entry .. ' ' .. event)
end
