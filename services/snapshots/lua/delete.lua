-- Forgets one generation other than the head, or with '-' all of them.
local wanted, epoch, match = ARGV[1], ARGV[2], ARGV[3]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'head')
local head = state[2] or '0'
if tonumber(epoch == '' and '0' or epoch) ~= tonumber(state[1] or '0') then
  return { 'fenced' }
end
if match ~= '' and tonumber(match) ~= tonumber(head) then
  return { 'mismatch', head }
end
if wanted ~= '-' then
  if redis.call('ZCOUNT', KEYS[2], wanted, wanted) == 0 then
    return { 'absent' }
  end
  if wanted == head then
    return { 'head', head }
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], wanted, wanted)
  redis.call('HDEL', KEYS[3], wanted)
  return { 'done', wanted }
end
local deleted = redis.call('ZRANGE', KEYS[2], 0, -1)
for _, upload in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do
  redis.call('HDEL', KEYS[5], upload)
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
if head ~= '0' then
  redis.call('HSET', KEYS[1], 'head', '0')
end
table.insert(deleted, 1, 'done')
return deleted
