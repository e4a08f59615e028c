-- Goes on holding an upload, with one part more if it has a name.
-- ARGV: holder, name of the part, size with it, now, how long to hold and to keep.
local part, size = ARGV[2], ARGV[3]
if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('EXISTS', KEYS[1]) == 0 then
  return 'lost'
end
if part ~= '' then
  local start = string.match(part, '^%d+')
  redis.call('HSET', KEYS[1], 'part:' .. start, part, 'size', size)
end
redis.call('HSET', KEYS[1], 'touched', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return 'done'
