-- Lets an upload go: for whoever resumes it, or for ever.
-- ARGV: holder, 1 if it is discarded, now, how long to keep.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 'lost'
end
redis.call('DEL', KEYS[2])
if ARGV[2] == '1' then
  redis.call('DEL', KEYS[1])
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'touched', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 'done'
