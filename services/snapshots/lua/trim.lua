-- Forgets records that the blob store has, if they still say what was written there.
-- ARGV: generation, record, generation, record, …
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 'done'
