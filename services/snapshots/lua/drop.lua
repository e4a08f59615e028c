-- Forgets generations that retention does not keep; the head is always kept.
local head = redis.call('HGET', KEYS[1], 'head')
for _, generation in ipairs(ARGV) do
  if generation ~= head then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], generation, generation)
    redis.call('HDEL', KEYS[3], generation)
  end
end
return 'done'
