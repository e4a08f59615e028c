-- Takes over what the blob store knows of an agent, when that is newer than we are.
-- ARGV: agent, epoch, newest generation, head, then five lists, each led by its length:
-- members of the index, and of the deleted; generations with records; upload ids with
-- generations, oldest first; generations with marks.
local agent, epoch, newest, head = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'last')
if tonumber(state[2] or '0') > tonumber(newest) then
  return 'newer'
end
for _, upload in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do
  redis.call('HDEL', KEYS[5], upload)
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7])

local at = 5
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
-- Whoever owned the agent may be forgotten here: nobody does until the next claim.
if tonumber(state[1] or '0') > tonumber(epoch) then
  epoch = state[1]
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'instance', '', 'boot', '',
  'last', newest, 'head', head)
redis.call('SADD', KEYS[8], agent)
return 'done'
