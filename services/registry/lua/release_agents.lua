-- Gives leases back. Who is about to go hands them to those that stay.
local instance, drain = read(INSTANCES, a.slot), active_drain()
local goes = instance and instance.boot == a.boot and alive(instance)
  and (instance.leaving or (drain and drain.bound[a.slot] == a.boot))
local ready

-- The next holder of an agent that must run; nil if nobody has room.
local function heir(meta)
  if not goes or meta.state ~= 'active' or not meta.claimable then return nil end
  ready = ready or mates(drain)
  local mate = emptiest(ready, meta.listed)
  if mate then mate.count = mate.count + 1 end
  return mate
end

local skipped, heirs = {}, {}
for _, each in ipairs(a.releases) do
  local lease, meta = read(LEASES, each.agent), read(AGENTS, each.agent)
  if meta and lease and lease.instance == a.slot and lease.boot == a.boot
      and lease.epoch == each.epoch then
    local again = each.end_reason == '' and not each.wait_for_boot
    local mate = again and heir(meta)
    if mate then
      lease_to(mate.slot, mate.boot, each.agent, meta)
      redis.call('HSET', HANDED, each.agent, mate.slot)
      heirs[mate.slot] = true
    elseif again then
      give_up(each.agent, meta, lease)
    else
      lease.instance, lease.boot = '', ''
      write(LEASES, each.agent, lease)
      redis.call('ZREM', FREE, each.agent)
      if each.end_reason ~= '' then
        meta.state, meta.end_reason = 'ended', each.end_reason
      else
        meta.listed = tonumber(redis.call('HGET', COUNTERS, 'registered') or 0)
      end
      save(each.agent, meta)
    end
  else
    skipped[#skipped + 1] = each.agent
  end
end
for slot in pairs(heirs) do tell('handed', slot) end
return {'ok', now, skipped}
