-- Makes a list the agents that must run. The entries' texts are ARGV[5] and on.
local listed, new = {}, 0
for _, entry in ipairs(a.entries) do
  listed[entry.agent] = true
  if redis.call('HEXISTS', AGENTS, entry.agent) == 0 then new = new + 1 end
end
if redis.call('HLEN', AGENTS) + new > a.agents_max then
  return refuse('TOO_MANY_AGENTS')
end

local kept = {}
for _, agent in ipairs(redis.call('HKEYS', AGENTS)) do
  if not listed[agent] then
    local meta = read(AGENTS, agent)
    local moved = meta.place ~= UNLISTED
    if moved then put(agent, meta, UNLISTED) end
    if meta.state == 'active' then
      local lease = read(LEASES, agent)
      if holder(lease) then
        kept[#kept + 1] = agent
      else
        meta.state, meta.end_reason, moved = 'ended', 'stopped', true
        redis.call('ZREM', FREE, agent)
        if lease then
          -- A holder that comes back after all learns that it has lost the agent.
          lease.instance, lease.boot = '', ''
          write(LEASES, agent, lease)
        end
      end
    end
    if moved then save(agent, meta) end
  end
end

local registered = tonumber(redis.call('HGET', COUNTERS, 'registered') or 0)
for i, entry in ipairs(a.entries) do
  local agent, text = entry.agent, ARGV[4 + i]
  local meta = read(AGENTS, agent)
  local before = meta and cjson.encode(meta) .. redis.call('HGET', SPECS, agent)
  meta = meta or new_meta()
  if not before or meta.state ~= 'active' then
    -- New here: for an instance that boots from now on, not for a running one.
    meta.listed = registered
    redis.call('ZREM', FREE, agent)
  end
  meta.state, meta.end_reason = 'active', ''
  meta.digest, meta.role, meta.database = entry.digest, entry.role, entry.database
  if not entry.claimable then
    meta.claimable, meta.last_error = false, entry.problem
  elseif not meta.claimable then
    meta.claimable, meta.last_error = true, ''
  end
  put(agent, meta, string.format('%08d', i))
  if cjson.encode(meta) .. text ~= before then
    redis.call('HSET', SPECS, agent, text)
    save(agent, meta)
  end
end
table.sort(kept)
return {'ok', now, kept}
