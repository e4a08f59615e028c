-- Takes a slot for a boot.
local instance = read(INSTANCES, a.slot)
if not instance or instance.boot ~= a.boot then
  local raw = redis.call('HGETALL', INSTANCES)
  for i = 1, #raw, 2 do
    local other = cjson.decode(raw[i + 1])
    if not alive(other) and other.deadline + a.expired_shown < now then
      redis.call('HDEL', INSTANCES, raw[i])
      if redis.call('ZREM', DEADLINES, raw[i]) == 1 then
        offer_leases_of(raw[i], other.boot, now)
      end
    end
  end
  if not instance and redis.call('HLEN', INSTANCES) >= a.instances_max then
    return refuse('TOO_MANY_INSTANCES')
  end
  if instance then
    -- Its disk may hold what was not saved yet, so the slot has them first.
    offer_leases_of(a.slot, instance.boot, now + TTL)
  end
  instance = {
    boot = a.boot, registered = now,
    sequence = redis.call('HINCRBY', COUNTERS, 'registered', 1),
  }
  redis.call('DEL', DRAIN)
end
instance.address, instance.capacity = a.address, a.capacity
renew(a.slot, instance)
return {'ok', now, a.slot, cjson.encode(instance)}
