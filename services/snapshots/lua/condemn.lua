-- Condemns a segment whose time in the trash is over, for whoever has the turn.
-- ARGV: turn, segment, now, how long a segment stays in the trash, or condemned.
local segment, now_ms, stay_ms = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 'over'
end
local since = tonumber(redis.call('ZSCORE', KEYS[1], segment) or now_ms)
if now_ms - math.abs(since) < stay_ms then
  return 'spared'
end
redis.call('ZADD', KEYS[1], -now_ms, segment)
return 'done'
