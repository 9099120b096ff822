-- uses: fences
-- Raises the fence counter to a token that was seen.
-- Returns 1, or 0 if it is as high already.
local fence_counter = unpack(KEYS)
local seen = unpack(ARGV)

return raise_fence(fence_counter, seen)
