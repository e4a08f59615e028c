-- Reads which agents have pending messages.
local waiting = redis.call('HKEYS', WAITING)
table.sort(waiting)
return {'ok', now, waiting}
