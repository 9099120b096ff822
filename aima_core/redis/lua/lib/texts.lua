-- Texts that scripts return: a client reads a few long ones, of many lines, faster than thousands of short ones.

-- Only another writer's text has several lines; where they matter, it does not verify.
local function one_line(text)
  if not string.find(text, '\n', 1, true) then return text end
  return (string.gsub(text, '\n', ' '))
end

-- The JSON of an instance, whose fence and desired state are fields of their own; '' if one is missing.
local function instance_json(record, fence, desired)
  if not (record and fence and desired) then return '' end
  return string.sub(record, 1, -2) .. ',"fence":' .. fence .. ',"desired":"' .. desired .. '"}'
end
