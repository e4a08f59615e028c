-- Forgets generations whose records are gone, whatever brought them back meanwhile.
-- The newest that is left is the head.
for _, generation in ipairs(ARGV) do
  redis.call('ZREMRANGEBYSCORE', KEYS[2], generation, generation)
  redis.call('HDEL', KEYS[3], generation)
  redis.call('HDEL', KEYS[4], generation)
  redis.call('ZREMRANGEBYSCORE', KEYS[5], generation, generation)
end
redis.call('HINCRBY', KEYS[1], 'changes', 1)
local head = redis.call('HGET', KEYS[1], 'head') or '0'
if head ~= '0' and redis.call('ZCOUNT', KEYS[2], head, head) == 0 then
  local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0)[1] or '0'
  redis.call('HSET', KEYS[1], 'head', string.match(newest, '^%d+'))
  redis.call('HINCRBY', KEYS[1], 'revision', 1)
end
return 'done'
