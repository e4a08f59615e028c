-- Settles a message on the proof of the agent's holder.
local field = a.agent .. '/' .. a.message
local message, meta = read(MESSAGES, field), read(AGENTS, a.agent)
if not message or not meta
    or (message.settled and message.settled <= now - a.settled_kept) then
  return refuse('MESSAGE_NOT_FOUND')
end
local lease = read(LEASES, a.agent) or {instance = '', boot = '', epoch = 0}
if lease.instance ~= a.slot or lease.boot ~= a.boot or lease.epoch ~= a.epoch then
  return refuse('LEASE_FENCED', {
    instance = lease.instance, boot = lease.boot, epoch = lease.epoch})
end
if message.state ~= 'pending' then
  if message.state ~= a.outcome then
    return refuse('SETTLED_OTHERWISE', {outcome = message.state})
  end
  return {'ok', now, cjson.encode(message), redis.call('HGET', TEXTS, field)}
end
if a.generation == 0 and meta.database then return refuse('GENERATION_REQUIRED') end

message.state, message.generation, message.settled = a.outcome, a.generation, now
write(MESSAGES, field, message)
local member = string.format('%s/%016d/%s', a.agent, message.sequence, a.message)
redis.call('ZREM', PENDING, member)
redis.call('ZADD', SETTLED, now, member)
if redis.call('HINCRBY', WAITING, a.agent, -1) <= 0 then
  redis.call('HDEL', WAITING, a.agent)
end
if a.generation > meta.generation then
  meta.generation = a.generation
  save(a.agent, meta)
else
  note(a.agent)
end
return {'ok', now, cjson.encode(message), redis.call('HGET', TEXTS, field)}
