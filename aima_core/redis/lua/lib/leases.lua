-- The text of a port lease; `since` is a time in ms.
local function lease_text(holder, fence, since)
  return string.format('{"holder":"%s","fence":%s,"since":%d}', holder, fence, since)
end
