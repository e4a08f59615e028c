-- Forgets generations that retention does not keep. The head is always kept, and so is
-- what is held, or deleted: that has a clock of its own. Answers with those that are gone.
local head = redis.call('HGET', KEYS[1], 'head')
local function kept(generation)
  return generation == head
    or string.find(redis.call('HGET', KEYS[4], generation) or '', 'held')
    or redis.call('ZCOUNT', KEYS[5], generation, generation) > 0
end
local gone = {}
for _, generation in ipairs(ARGV) do
  if not kept(generation) then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], generation, generation)
    redis.call('HDEL', KEYS[3], generation)
    redis.call('HDEL', KEYS[4], generation)
    table.insert(gone, generation)
  end
end
if #gone > 0 then
  redis.call('HINCRBY', KEYS[1], 'changes', 1)
end
return gone
