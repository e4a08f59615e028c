-- Raises the epoch and leaves the agent without an owner, so whoever claimed it before
-- writes no more. An agent that never had an owner needs none now either.
if tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') > 0 then
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  redis.call('HSET', KEYS[1], 'instance', '', 'boot', '')
end
return 'done'
