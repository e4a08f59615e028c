-- Gives leases back.
local skipped = {}
for _, each in ipairs(a.releases) do
  local lease, meta = read(LEASES, each.agent), read(AGENTS, each.agent)
  if meta and lease and lease.instance == a.slot and lease.boot == a.boot
      and lease.epoch == each.epoch then
    lease.instance, lease.boot = '', ''
    write(LEASES, each.agent, lease)
    if each.end_reason ~= '' then
      meta.state, meta.end_reason = 'ended', each.end_reason
      redis.call('ZREM', FREE, each.agent)
    elseif each.wait_for_boot then
      redis.call('ZREM', FREE, each.agent)
      meta.listed = tonumber(redis.call('HGET', COUNTERS, 'registered') or 0)
    else
      offer(each.agent, now)
    end
    save(each.agent, meta)
  else
    skipped[#skipped + 1] = each.agent
  end
end
return {'ok', now, skipped}
