-- Reserves consecutive fencing tokens above the last one and above the caller's clock in milliseconds, so that they
-- ascend even after Redis has lost its data.
--
-- A last token that is no number, or beyond `highest`, is forged, or comes from a wrong clock: workers refuse all from
-- there on. It is discarded, so that a writer in Redis cannot lock API nodes out.
-- Returns {the first token, 1 if a last token was discarded}.
local fence_counter = unpack(KEYS)
local clock, highest, count = unpack(ARGV)

local text = redis.pcall('GET', fence_counter) -- another type is overwritten
local last = type(text) == 'string' and tonumber(text) or 0
local discarded = text and not (last > 0 and last <= tonumber(highest)) -- also where it is not a number (NaN)
local first = math.max(discarded and 0 or math.floor(last), tonumber(clock)) + 1
redis.call('SET', fence_counter, string.format('%d', first + count - 1))
return {first, discarded and 1 or 0}
