-- Marks that the registry serves, and notices when it did not for a while. Without
-- the prelude: KEYS[1] is the one key of the whole store. ARGV: what counts as a
-- gap, and the lease TTL, in ms.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local served = tonumber(redis.call('HGET', KEYS[1], 'served') or now)
if now - served > tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'gap_start', served, 'gap_until', now + tonumber(ARGV[2]))
end
redis.call('HSET', KEYS[1], 'served', now)
local gap = redis.call('HMGET', KEYS[1], 'gap_start', 'gap_until')
return {now, tonumber(gap[1] or 0), tonumber(gap[2] or 0)}
