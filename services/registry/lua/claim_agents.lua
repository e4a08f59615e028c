-- Gives an instance leases, each with a new epoch.
local instance = read(INSTANCES, a.slot)
local refusal = not_the_boot(instance, a.boot)
if refusal then return refusal end
local drain = active_drain()
local drains = drain and drain.bound[a.slot] == a.boot
if drains and not a.renew then return refuse('DRAINING', {nonce = drain.nonce}) end
-- Whoever claims is there.
renew(a.slot, instance)

local function mine(lease)
  return lease and lease.instance == a.slot and lease.boot == a.boot
end

local function take(agent, meta, lease)
  lease_to(a.slot, a.boot, agent, meta)
  local won = lease and lease.instance ~= '' and not mine(lease)
  return {record(agent, meta), won and 1 or 0, 1}
end

local claims = {}

if #a.agents > 0 then
  local metas, leases = {}, {}
  for i, agent in ipairs(a.agents) do
    metas[i], leases[i] = read(AGENTS, agent), read(LEASES, agent)
    if not metas[i] then return refuse('AGENT_NOT_FOUND', {agent = agent}) end
    if not mine(leases[i]) then
      if drains then return refuse('DRAINING', {nonce = drain.nonce}) end
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
    if mine(leases[i]) and not a.renew then
      claims[i] = {record(agent, metas[i]), 0, 0}
    else
      claims[i] = take(agent, metas[i], leases[i])
    end
  end
  return {'ok', now, claims}
end

-- New ones are spread over all that are ready: each goes where it fills least.
local ready, me = mates(drain), nil
for _, mate in ipairs(ready) do
  if mate.slot == a.slot then me = mate end
end

local new, size, full = 0, 0, false
local function fits(agent)
  local each = 2 * redis.call('HSTRLEN', SPECS, agent) + 1024
  if size > 0 and size + each > a.bytes_max then return false end
  size = size + each
  return true
end

-- Takes an agent that nobody holds, or leaves it to others; a claim, or nil.
local function share(agent, meta, lease)
  local since = tonumber(redis.call('ZSCORE', FREE, agent) or now)
  local own = lease and lease.instance == a.slot
  -- Kept for the slot that had it, which may be about to boot.
  if since > now and not own then return nil end
  -- What was left for a TTL to somebody who did not come is for the first that does.
  local mate = (own or since + TTL <= now) and me or emptiest(ready, meta.listed)
  if mate and mate == me then
    local room = new < a.limit and me.count < me.capacity
    full = full or (room and not fits(agent))
    if room and not full then
      new, me.count = new + 1, me.count + 1
      return take(agent, meta, lease)
    end
  elseif mate then
    mate.count = mate.count + 1
  end
  offer(agent, now)
end

-- What it holds already comes along, for a caller that lost an answer. New leases and
-- those that were handed to it have the room first: one that is not told is not run.
local held = {}
local members = redis.call('ZRANGEBYLEX', ORDER, '-', '+')
for i, member in ipairs(members) do
  local agent = string.match(member, '[^/]+$')
  local meta, lease = read(AGENTS, agent), read(LEASES, agent)
  if mine(lease) then
    if redis.call('HEXISTS', HANDED, agent) == 0 then
      held[#held + 1] = {place = i, acquired = lease.acquired}
    elseif not full then
      full = not fits(agent)
      if not full then
        redis.call('HDEL', HANDED, agent)
        claims[i] = {record(agent, meta), 0, 1}
      end
    end
  elseif holder(lease) or meta.state ~= 'active' or not meta.claimable then
    redis.call('ZREM', FREE, agent)
  elseif meta.listed < instance.sequence then
    claims[i] = share(agent, meta, lease)
  end
end
-- The newest first: older ones were told, and are what there is no room for.
table.sort(held, function(one, other) return one.acquired > other.acquired end)
for _, each in ipairs(held) do
  local i = each.place
  local agent = string.match(members[i], '[^/]+$')
  full = full or not fits(agent)
  redis.call('ZREM', FREE, agent)
  if not full then claims[i] = {record(agent, read(AGENTS, agent)), 0, 0} end
end
local ordered = {}
for i = 1, #members do ordered[#ordered + 1] = claims[i] end
return {'ok', now, ordered}
