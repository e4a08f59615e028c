-- The agent's state, its head's record and what became of an upload, in one read.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'instance', 'boot', 'last', 'head',
  'revision', 'changes')
local record = state[5] and redis.call('HGET', KEYS[2], state[5])
local known = ARGV[1] ~= '' and redis.call('HGET', KEYS[3], ARGV[1])
return {
  state[1] or '0', state[2] or '', state[3] or '', state[4] or '0', state[5] or '0',
  record or '', known or '', state[6] or '0', state[7] or '0',
}
