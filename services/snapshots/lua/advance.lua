-- Raises the epoch and binds it, unless that would take it from its owner.
local epoch, instance, boot = ARGV[1], ARGV[2], ARGV[3]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'instance', 'boot')
local bound = state[2] and state[2] ~= ''
local same = not bound or (state[2] == instance and state[3] == boot)
local seen = tonumber(state[1] or '0')
if tonumber(epoch) < seen or (tonumber(epoch) == seen and not same) then
  return 'fenced'
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'instance', instance, 'boot', boot)
redis.call('SADD', KEYS[2], ARGV[4])
return 'done'
