-- Accepts a message; its text is ARGV[5].
if redis.call('HEXISTS', AGENTS, a.agent) == 0 then return refuse('AGENT_NOT_FOUND') end
local old = redis.call(
  'ZRANGEBYSCORE', SETTLED, '-inf', now - a.settled_kept, 'LIMIT', 0, 100)
for _, member in ipairs(old) do drop_message(member) end

local field = a.agent .. '/' .. a.message
local known = read(MESSAGES, field)
if known and known.settled and known.settled <= now - a.settled_kept then
  drop_message(string.format('%s/%016d/%s', a.agent, known.sequence, a.message))
  known = nil
end
if known then
  if known.digest ~= a.digest then return refuse('MESSAGE_REUSED') end
  return {'ok', now, 0, cjson.encode(known)}
end
if tonumber(redis.call('HGET', WAITING, a.agent) or 0) >= a.pending_max then
  return refuse('INBOX_FULL')
end
local message = {
  sequence = redis.call('HINCRBY', COUNTERS, 'sequence:' .. a.agent, 1),
  digest = a.digest, model = a.model, state = 'pending', generation = 0,
  accepted = now,
}
local member = string.format('%s/%016d/%s', a.agent, message.sequence, a.message)
write(MESSAGES, field, message)
redis.call('HSET', TEXTS, field, ARGV[5])
redis.call('ZADD', QUEUE, 0, member)
redis.call('ZADD', PENDING, 0, member)
redis.call('HINCRBY', WAITING, a.agent, 1)
-- Who listens for changes hears this one as well.
told = true
note(a.agent)
tell('hints', a.agent)
return {'ok', now, 1, cjson.encode(message)}
