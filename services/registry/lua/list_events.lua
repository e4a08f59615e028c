-- Reads events behind an id, until there are enough or the answer is large enough.
if redis.call('HEXISTS', AGENTS, a.agent) == 0 then return refuse('AGENT_NOT_FOUND') end
local last = tonumber(redis.call('HGET', COUNTERS, 'event_last:' .. a.agent) or 0)
local start = math.max(a.after + 1, first_event(a.agent))
local found, size = {}, 0
for id = start, last do
  if #found == a.limit then break end
  local meta, _, raw = event(a.agent, id)
  size = size + meta.size
  if #found > 0 and size > a.bytes_max then break end
  found[#found + 1] = {id, raw}
end
return {'ok', now, start - a.after - 1, found}
