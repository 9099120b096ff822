-- Ask for an operation's end. Who holds its claim sees the mark; if nobody does, the asker may end it at once.
--
-- KEYS  operation, its claim
-- Gives 'lost', 'ended', 'held' or 'free'.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'lost' end
if redis.call('PTTL', KEYS[1]) >= 0 then return 'ended' end
redis.call('HSET', KEYS[1], 'cancel', '1')
if redis.call('EXISTS', KEYS[2]) == 1 then return 'held' end
return 'free'
