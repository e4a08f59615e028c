-- Forgets a record, its inbox, nudges, reports and events; EPOCHS stays as it is, and
-- so does the last id of an event.
local meta = read(AGENTS, a.agent)
if not meta then return refuse('AGENT_NOT_FOUND') end
local revision = string.format('%d', meta.revision)
if a.etag ~= '' and a.etag ~= revision then
  return refuse('ETAG_MISMATCH', {etag = revision})
end
local lease = read(LEASES, a.agent)
if holder(lease) then
  return refuse('LEASE_HELD', {
    agent = a.agent, instance = lease.instance, epoch = lease.epoch})
end
local start, stop = span(a.agent, '')
for _, member in ipairs(redis.call('ZRANGEBYLEX', QUEUE, start, stop)) do
  drop_message(member)
end
redis.call('ZREM', ORDER, meta.place .. '/' .. a.agent)
redis.call('HDEL', COUNTERS, 'sequence:' .. a.agent)
redis.call('ZREM', FREE, a.agent)
for _, key in ipairs({AGENTS, SPECS, LEASES, WAITING, NUDGES, HANDED}) do
  redis.call('HDEL', key, a.agent)
end
local last = tonumber(redis.call('HGET', COUNTERS, 'event_last:' .. a.agent) or 0)
-- Many at once: others wait for this script.
for start = first_event(a.agent), last, 500 do
  local fields = {}
  for id = start, math.min(start + 499, last) do
    fields[#fields + 1] = string.format('%s/%d', a.agent, id)
  end
  for _, raw in ipairs(redis.call('HMGET', EVENTS, unpack(fields))) do
    local meta = cjson.decode(string.match(raw, '^[^\n]*'))
    if meta.request ~= '' then
      fields[#fields + 1] = a.agent .. '/r/' .. meta.request
    end
  end
  redis.call('HDEL', EVENTS, unpack(fields))
end
redis.call('HDEL', COUNTERS, 'event_bytes:' .. a.agent)
if last > 0 then redis.call('HSET', COUNTERS, 'event_first:' .. a.agent, last + 1) end
for _, kind in ipairs(a.reports) do
  redis.call('HDEL', REPORTS, a.agent .. '/' .. kind)
end

redis.call('ZREM', CHANGES, a.agent)
redis.call('ZADD', GONE, next_revision(), a.agent)
local beyond = redis.call('ZCARD', GONE) - a.gone_kept
if beyond > 0 then
  -- Who has not heard of these by now must list again.
  local dropped = redis.call('ZPOPMIN', GONE, beyond)
  redis.call('HSET', WATCH, 'compacted', dropped[#dropped])
end
return {'ok', now}
