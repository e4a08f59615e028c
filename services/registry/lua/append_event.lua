-- Appends an event to an agent's log; its data is ARGV[5].
if redis.call('HEXISTS', AGENTS, a.agent) == 0 then return refuse('AGENT_NOT_FOUND') end
if a.request_id ~= '' then
  local known = redis.call('HGET', EVENTS, a.agent .. '/r/' .. a.request_id)
  if known then
    local meta, data, raw = event(a.agent, known)
    if meta.type ~= a.type or data ~= ARGV[5] then return refuse('REQUEST_REUSED') end
    return {'ok', now, tonumber(known), raw}
  end
end

local id = redis.call('HINCRBY', COUNTERS, 'event_last:' .. a.agent, 1)
local raw = cjson.encode({
  type = a.type, created = now, request = a.request_id, size = a.size,
}) .. '\n' .. ARGV[5]
redis.call('HSET', EVENTS, string.format('%s/%d', a.agent, id), raw)
if a.request_id ~= '' then
  redis.call('HSET', EVENTS, a.agent .. '/r/' .. a.request_id, id)
end
local first = first_event(a.agent)
local kept = redis.call('HINCRBY', COUNTERS, 'event_bytes:' .. a.agent, a.size)
while first < id and (id - first >= a.events_max or kept > a.bytes_max) do
  kept = drop_event(a.agent, first)
  first = first + 1
end
redis.call('HSET', COUNTERS, 'event_first:' .. a.agent, first)
return {'ok', now, id, raw}
