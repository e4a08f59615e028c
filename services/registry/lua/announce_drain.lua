-- Binds live instances to a drain, beside those that an earlier one binds.
local bound, count = {}, 0
local function bind(slot, instance)
  bound[slot], count = instance.boot, count + 1
end
if #a.slots == 0 then
  local raw = redis.call('HGETALL', INSTANCES)
  for i = 1, #raw, 2 do
    local instance = cjson.decode(raw[i + 1])
    if alive(instance) then bind(raw[i], instance) end
  end
end
for _, slot in ipairs(a.slots) do
  local instance = read(INSTANCES, slot)
  if not instance or not alive(instance) then
    return refuse('INSTANCE_NOT_FOUND', {slot = slot})
  end
  if not bound[slot] then bind(slot, instance) end
end
if count == 0 then
  -- A town without instances has nothing to empty.
  return {'ok', now, ''}
end

local drain = active_drain()
local known = drain ~= nil
if drain then
  for slot, boot in pairs(bound) do known = known and drain.bound[slot] == boot end
  for slot, boot in pairs(drain.bound) do bound[slot] = bound[slot] or boot end
end
if not known then
  drain = {nonce = a.nonce, announced = now, bound = bound}
  redis.call('SET', DRAIN, cjson.encode(drain))
end
return {'ok', now, cjson.encode(drain)}
