-- Forgets one generation other than the head, or with '-' all of them, those that are
-- deleted as well; nothing that is held.
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
  local found = redis.call('ZCOUNT', KEYS[2], wanted, wanted)
    + redis.call('ZCOUNT', KEYS[7], wanted, wanted)
  if found == 0 then
    return { 'absent' }
  end
  if wanted == head then
    return { 'head', head }
  end
  if string.find(redis.call('HGET', KEYS[6], wanted) or '', 'held') then
    return { 'held', wanted }
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], wanted, wanted)
  redis.call('ZREMRANGEBYSCORE', KEYS[7], wanted, wanted)
  redis.call('HDEL', KEYS[3], wanted)
  redis.call('HDEL', KEYS[6], wanted)
  redis.call('HINCRBY', KEYS[1], 'changes', 1)
  return { 'done', wanted }
end
local marks, held = redis.call('HGETALL', KEYS[6]), nil
for i = 1, #marks, 2 do
  local first = not held or tonumber(marks[i]) < tonumber(held)
  if first and string.find(marks[i + 1], 'held') then
    held = marks[i]
  end
end
if held then
  return { 'held', held }
end
local gone = redis.call('ZRANGE', KEYS[2], 0, -1)
for _, member in ipairs(redis.call('ZRANGE', KEYS[7], 0, -1)) do
  table.insert(gone, member)
end
for _, upload in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do
  redis.call('HDEL', KEYS[5], upload)
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7])
if #gone > 0 then
  redis.call('HSET', KEYS[1], 'head', '0')
  redis.call('HINCRBY', KEYS[1], 'changes', 1)
  -- A commit that was prepared on the chain that is gone must look again.
  redis.call('HINCRBY', KEYS[1], 'revision', 1)
end
table.insert(gone, 1, 'done')
return gone
