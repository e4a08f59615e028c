-- Gives an instance leases, each with a new epoch.
local instance = read(INSTANCES, a.slot)
local refusal = not_the_boot(instance, a.boot)
if refusal then return refusal end
local drain = active_drain()
if drain and drain.bound[a.slot] == a.boot then
  return refuse('DRAINING', {nonce = drain.nonce})
end
-- Whoever claims is there.
instance.deadline = now + TTL
write(INSTANCES, a.slot, instance)

local function mine(lease)
  return lease and lease.instance == a.slot and lease.boot == a.boot
end

local function take(agent, meta, lease)
  write(LEASES, agent, {
    epoch = redis.call('HINCRBY', EPOCHS, agent, 1),
    instance = a.slot, boot = a.boot, acquired = now,
  })
  meta.state, meta.end_reason, meta.listed = 'active', '', -1
  save(agent, meta)
  return {record(agent, meta), lease and lease.instance ~= '' and 1 or 0}
end

local claims = {}

if #a.agents > 0 then
  local metas, leases = {}, {}
  for i, agent in ipairs(a.agents) do
    metas[i], leases[i] = read(AGENTS, agent), read(LEASES, agent)
    if not metas[i] then return refuse('AGENT_NOT_FOUND', {agent = agent}) end
    if not mine(leases[i]) then
      if not metas[i].claimable then
        return refuse('NO_START_REQUEST', {agent = agent, why = metas[i].last_error})
      end
      if holder(leases[i]) then
        return refuse('LEASE_HELD', {
          agent = agent, instance = leases[i].instance, epoch = leases[i].epoch})
      end
    end
  end
  for i, agent in ipairs(a.agents) do
    if mine(leases[i]) then
      claims[i] = {record(agent, metas[i]), 0}
    else
      claims[i] = take(agent, metas[i], leases[i])
    end
  end
  return {'ok', now, claims}
end

-- What it holds already comes along, for a caller that lost an answer; new leases
-- have the room first, since a lease that is not told is not run.
local held, new, size = {}, 0, 0
local members = redis.call('ZRANGEBYLEX', ORDER, '-', '+')
local room = a.limit
if instance.capacity > 0 then
  local count = 0
  for _, raw in ipairs(redis.call('HVALS', LEASES)) do
    if mine(cjson.decode(raw)) then count = count + 1 end
  end
  room = math.min(room, instance.capacity - count)
end
local function fits(agent)
  local each = 2 * redis.call('HSTRLEN', SPECS, agent) + 1024
  if size > 0 and size + each > a.bytes_max then return false end
  size = size + each
  return true
end
local full = false
for i, member in ipairs(members) do
  local agent = string.match(member, '[^/]+$')
  local meta, lease = read(AGENTS, agent), read(LEASES, agent)
  if mine(lease) then
    held[#held + 1] = i
  elseif new < room and not full and meta.state == 'active' and meta.claimable
      and meta.listed < instance.sequence and not holder(lease) then
    full = not fits(agent)
    if not full then
      new = new + 1
      claims[i] = take(agent, meta, lease)
    end
  end
end
for _, i in ipairs(held) do
  local agent = string.match(members[i], '[^/]+$')
  full = full or not fits(agent)
  if not full then claims[i] = {record(agent, read(AGENTS, agent)), 0} end
end
local ordered = {}
for i = 1, #members do ordered[#ordered + 1] = claims[i] end
return {'ok', now, ordered}
