-- Forgets an upload of the agent that no stream has, and says where its parts are.
local found = redis.call('HMGET', KEYS[1], 'agent', 'folder')
if found[1] ~= ARGV[1] then
  return { 'absent' }
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  return { 'busy' }
end
redis.call('DEL', KEYS[1])
return { 'gone', found[2] }
