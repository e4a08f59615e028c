-- Takes an upload for one stream; a new one begins here.
-- ARGV: agent, body, holder, folder if it is new, now, how long to hold and to keep.
local agent, body, holder, folder, now_us = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local found = redis.call('HMGET', KEYS[1], 'agent', 'body')
if found[1] and (found[1] ~= agent or found[2] ~= body) then
  return { 'reused', found[1], found[2] }
end
if not redis.call('SET', KEYS[2], holder, 'NX', 'PX', ARGV[6]) then
  return { 'busy' }
end
if not found[1] then
  redis.call('HSET', KEYS[1], 'agent', agent, 'body', body, 'folder', folder, 'size', 0)
end
redis.call('HSET', KEYS[1], 'touched', now_us)
redis.call('PEXPIRE', KEYS[1], ARGV[7])
local answer = redis.call('HGETALL', KEYS[1])
table.insert(answer, 1, 'open')
return answer
