-- Appends an event to its operation's log and to the common log. It is published with its id in the common log; several
-- of one script are published together, a line each, since every API node reads each message.
local EVENTS_IN_MESSAGE = 100 -- as `MOST_IN_MESSAGE` of the readers

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

-- Returns the line to publish.
local function log_event(id, seq, event, log, log_cap, common_log, common_log_cap)
  append_to(log, 'MAXLEN', '~', log_cap, seq .. '-0', 'event', event)
  local entry = append_to(common_log, 'MAXLEN', '~', common_log_cap, '*', 'operation', id, 'seq', seq, 'event', event)
  return id .. ' ' .. seq .. ' ' .. entry .. ' ' .. event
end

local function publish_lines(channel, lines)
  for from = 1, #lines, EVENTS_IN_MESSAGE do
    local to = math.min(from + EVENTS_IN_MESSAGE - 1, #lines)
    redis.call('PUBLISH', channel, table.concat(lines, '\n', from, to))
  end
end
