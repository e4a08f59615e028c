-- Makes a turn last longer, or with 0 ends it; another replica's is left alone.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'over'
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'done'
