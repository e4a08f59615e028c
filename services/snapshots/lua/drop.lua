-- Forgets generations that retention does not keep. The head is always kept, and so is
-- what is held. Answers with those that are gone.
local head = redis.call('HGET', KEYS[1], 'head')
local gone = {}
for _, generation in ipairs(ARGV) do
  local mark = redis.call('HGET', KEYS[4], generation) or ''
  if generation ~= head and not string.find(mark, 'held') then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], generation, generation)
    redis.call('HDEL', KEYS[3], generation)
    redis.call('HDEL', KEYS[4], generation)
    table.insert(gone, generation)
  end
end
return gone
