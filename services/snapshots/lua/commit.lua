-- Makes a generation the head, if its writer owns the agent and builds on the head.
local agent, upload, generation = ARGV[1], ARGV[2], ARGV[3]
local epoch, instance, boot, match = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local record, created_us, ids_max = ARGV[8], ARGV[9], tonumber(ARGV[10])
local revision = ARGV[11]

local known = redis.call('HGET', KEYS[5], upload)
if known then
  -- Written again, so that waiting for replicas waits for this one.
  redis.call('HSET', KEYS[5], upload, known)
  return { 'known', known }
end
local state = redis.call('HMGET', KEYS[1], 'epoch', 'instance', 'boot', 'last', 'head',
  'revision')
local seen = tonumber(state[1] or '0')
if tonumber(epoch == '' and '0' or epoch) ~= seen then
  return { 'fenced' }
end
if instance ~= '' and (instance ~= state[2] or boot ~= state[3]) then
  return { 'fenced' }
end
if match ~= '' and tonumber(match) ~= tonumber(state[5] or '0') then
  return { 'mismatch', state[5] or '0' }
end
if tonumber(generation) ~= tonumber(state[4] or '0') + 1 then
  return { 'moved' }
end
if tonumber(revision) ~= tonumber(state[6] or '0') then
  return { 'moved' }
end

redis.call('HSET', KEYS[1], 'last', generation, 'head', generation)
redis.call('HINCRBY', KEYS[1], 'changes', 1)
redis.call('ZADD', KEYS[2], generation, generation .. ':' .. created_us)
redis.call('HSET', KEYS[3], generation, record)
redis.call('LPUSH', KEYS[4], upload)
redis.call('HSET', KEYS[5], upload, agent .. '/' .. generation)
while redis.call('LLEN', KEYS[4]) > ids_max do
  redis.call('HDEL', KEYS[5], redis.call('RPOP', KEYS[4]))
end
redis.call('SADD', KEYS[6], agent)
return { 'done' }
