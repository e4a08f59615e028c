-- Renews an instance, and takes in what it knows of its runs.
local instance = read(INSTANCES, a.slot)
local refusal = not_the_boot(instance, a.boot)
if refusal then return refusal end
-- For good: a beat that was sent before may come after.
instance.leaving = instance.leaving or a.leaving or nil
renew(a.slot, instance)
-- What those lease who were not heard from in time. The others are to hear of it now:
-- they may have asked just before, and would be an interval late.
local orphans = false
for _, slot in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now)) do
  local other = read(INSTANCES, slot)
  if not (other and alive(other)) then
    redis.call('ZREM', DEADLINES, slot)
    orphans = other and offer_leases_of(slot, other.boot, now) or orphans
  end
end
if orphans then tell('offered', '') end

local lost, shown = {}, {}
for _, run in ipairs(a.runs) do
  local lease, meta = read(LEASES, run.agent), read(AGENTS, run.agent)
  if not (meta and lease and lease.instance == a.slot and lease.boot == a.boot
      and lease.epoch == run.epoch) then
    lost[#lost + 1] = run.agent
  else
    shown[run.agent] = true
    local before = cjson.encode(meta)
    meta.generation = math.max(meta.generation, run.generation)
    if meta.claimable then
      meta.failed_starts, meta.last_error = run.failed_starts, run.last_error
    end
    if cjson.encode(meta) ~= before then save(run.agent, meta) end
  end
end

local pending = {}
for _, agent in ipairs(redis.call('HKEYS', WAITING)) do
  local lease = read(LEASES, agent)
  if lease and lease.instance == a.slot and lease.boot == a.boot then
    pending[#pending + 1] = agent
  end
end
table.sort(pending)
local drain = active_drain()
local bound = drain and drain.bound[a.slot] == a.boot
local free = 0
local goes = bound or instance.leaving
if not goes and (instance.capacity == 0 or #a.runs < instance.capacity) then
  free = redis.call('ZCOUNT', FREE, '-inf', now)
end
-- What was handed to it, and it does not know of yet; is it about to go itself, it never
-- will, and others may have it.
local handed = redis.call('HGETALL', HANDED)
for i = 1, #handed, 2 do
  local agent = handed[i]
  local lease = handed[i + 1] == a.slot and read(LEASES, agent)
  if lease and lease.instance == a.slot and lease.boot == a.boot then
    if shown[agent] then
      redis.call('HDEL', HANDED, agent)
    elseif goes then
      give_up(agent, read(AGENTS, agent), lease)
    else
      free = free + 1
    end
  end
end
-- Those that count as alive, after a gap in our own service as well.
local since = now < GAP_UNTIL and math.min(now, GAP_START) or now
local living = redis.call('ZCOUNT', DEADLINES, '(' .. since, '+inf')
return {'ok', now, lost, pending, bound and drain.nonce or '', free, living}
