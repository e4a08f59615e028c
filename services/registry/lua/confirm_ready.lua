-- Ends the drain of a nonce.
local drain = active_drain()
if drain and drain.nonce ~= a.nonce then return {'ok', now, 0} end
redis.call('DEL', DRAIN)
return {'ok', now, 1}
