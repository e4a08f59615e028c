-- Ends an instance; what it leases is held by nobody then.
local instance = read(INSTANCES, a.slot)
if instance then
  local refusal = not_the_boot(instance, a.boot)
  if refusal then return refusal end
  redis.call('HDEL', INSTANCES, a.slot)
  redis.call('ZREM', DEADLINES, a.slot)
  if offer_leases_of(a.slot, a.boot, now) then tell('offered', '') end
end
return {'ok', now}
