-- Reads which agents have pending messages.
return {'ok', now, redis.call('HKEYS', WAITING)}
