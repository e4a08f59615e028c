-- Reads instances, how many leases each holds, the drain, and one agent's lease.
local instances = redis.call('HGETALL', INSTANCES)
local counts = {}
for i = 1, #instances, 2 do
  counts[instances[i]] = {boot = cjson.decode(instances[i + 1]).boot, count = 0}
end
for _, raw in ipairs(redis.call('HVALS', LEASES)) do
  local lease = cjson.decode(raw)
  local slot = counts[lease.instance]
  if slot and slot.boot == lease.boot then slot.count = slot.count + 1 end
end
local found = {}
for i = 1, #instances, 2 do
  found[#found + 1] = {instances[i], instances[i + 1], counts[instances[i]].count}
end
local lease = a.agent ~= '' and redis.call('HGET', LEASES, a.agent) or ''
return {'ok', now, found, redis.call('GET', DRAIN) or '', lease or ''}
