-- Takes over what the blob store knows of an agent: when that is newer than we are, or
-- all of it as long as nothing changed since the changes that are named.
-- ARGV: agent, highest epoch, newest generation, head, changes, then five lists, each led by its length:
-- members of the index, and of the deleted; generations with records; upload ids with
-- generations, oldest first; generations with marks.
local agent, epoch, newest = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local head, changes = ARGV[4], ARGV[5]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'last', 'head', 'changes',
  'instance')
local seen, last = tonumber(state[1] or '0'), tonumber(state[2] or '0')
local rebuilds = changes ~= ''
if rebuilds and tonumber(changes) ~= tonumber(state[4] or '0') then
  return 'moved'
end
if last > tonumber(newest) then
  if not rebuilds then
    return 'newer'
  end
  newest = state[2]
end
for _, upload in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do
  redis.call('HDEL', KEYS[5], upload)
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7])

local at = 6
local function list()
  local first = at + 1
  at = first + tonumber(ARGV[at])
  return first, at - 1
end
local first, last
for _, key in ipairs({ KEYS[2], KEYS[7] }) do
  first, last = list()
  for i = first, last do
    redis.call('ZADD', key, string.match(ARGV[i], '^%d+'), ARGV[i])
  end
end
first, last = list()
for i = first, last, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
first, last = list()
for i = first, last, 2 do
  redis.call('LPUSH', KEYS[4], ARGV[i])
  redis.call('HSET', KEYS[5], ARGV[i], agent .. '/' .. ARGV[i + 1])
end
first, last = list()
for i = first, last, 2 do
  redis.call('HSET', KEYS[6], ARGV[i], ARGV[i + 1])
end
-- Whoever owned the agent may be forgotten here: nobody does until the next claim, but
-- for one that claimed the head that stands since the rebuilding began.
local bound = (state[5] or '') ~= ''
local kept = rebuilds and bound and head == (state[3] or '0') and seen >= epoch
if not kept then
  if rebuilds and epoch > 0 then
    epoch = epoch + 1
  end
  if seen < epoch then
    redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch))
  end
  redis.call('HSET', KEYS[1], 'instance', '', 'boot', '')
end
redis.call('HSET', KEYS[1], 'last', newest, 'head', head)
redis.call('HINCRBY', KEYS[1], 'changes', 1)
-- The head may be another one under the same number.
redis.call('HINCRBY', KEYS[1], 'revision', 1)
redis.call('SADD', KEYS[8], agent)
return 'done'
