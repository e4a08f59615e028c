-- Stands in front of every script of this folder: the keys of one town, the store's
-- clock, and what the scripts share. ARGV: ttl, gap start, gap until (ms), the
-- arguments as JSON, then texts that no script looks into.
local AGENTS, SPECS, ORDER = KEYS[1], KEYS[2], KEYS[3]
local LEASES, EPOCHS, INSTANCES, DRAIN = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local REQUESTS, REQUEST_TIMES = KEYS[8], KEYS[9]
local MESSAGES, TEXTS, QUEUE = KEYS[10], KEYS[11], KEYS[12]
local PENDING, SETTLED, WAITING = KEYS[13], KEYS[14], KEYS[15]
local COUNTERS, FREE, DEADLINES = KEYS[16], KEYS[17], KEYS[18]
local CHANGES, GONE, WATCH = KEYS[19], KEYS[20], KEYS[21]
local REPORTS, EVENTS, NUDGES = KEYS[22], KEYS[23], KEYS[24]
local HANDED = KEYS[25]

local TTL, GAP_START, GAP_UNTIL = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local a = cjson.decode(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Behind every place of a list: agents that were registered one by one.
local UNLISTED = '~'

-- What is true of most records, and therefore not stored.
local USUAL = {
  state = 'active', end_reason = '', generation = 0, failed_starts = 0, last_error = '',
  place = UNLISTED, claimable = true, listed = -1, database = true,
}

local function filled(meta)
  for name, usual in pairs(USUAL) do
    if meta[name] == nil then meta[name] = usual end
  end
  return meta
end

local function read(key, field)
  local raw = redis.call('HGET', key, field)
  local value = raw and cjson.decode(raw) or nil
  return value and key == AGENTS and filled(value) or value
end

local function write(key, field, value)
  if key == AGENTS then
    local meta = value
    value = {}
    for name, each in pairs(meta) do
      if each ~= USUAL[name] then value[name] = each end
    end
  end
  redis.call('HSET', key, field, cjson.encode(value))
end

-- Tells those who listen to the town: `hints` of messages, what was `handed` to whom, or
-- that there is something `offered` to all.
local function tell(channel, text)
  redis.call('PUBLISH', string.gsub(KEYS[1], 'agents$', channel), text)
end

-- Whether watchers were told already; they read when the whole script is over.
local told = false

-- The next revision of the town, for a change that watchers are to hear of.
local function next_revision()
  if not told then
    tell('changes', '')
    told = true
  end
  return redis.call('HINCRBY', COUNTERS, 'revision', 1)
end

-- Logs that what is shown of an agent has changed.
local function note(agent)
  local revision = next_revision()
  redis.call('ZADD', CHANGES, revision, agent)
  return revision
end

-- Whether a record's own spec, stored so far as it is, must be stored anew although it
-- says the same: it is in clear, or sealed with another key. Entries wait for a list.
local function stale_seal(agent, text)
  local stored = redis.call('HGET', SPECS, agent)
  local letter = stored and string.sub(stored, 1, 1)
  return (letter == 'S' or letter == 's') and stored ~= text
end

-- Marks a record as changed and stores it.
local function save(agent, meta)
  if not meta.revision then redis.call('ZREM', GONE, agent) end
  meta.revision = note(agent)
  meta.updated = now
  write(AGENTS, agent, meta)
end

local function new_meta()
  return filled({created = now})
end

-- Puts an agent at its place in the order of lists.
local function put(agent, meta, place)
  if meta.place ~= place then
    redis.call('ZREM', ORDER, meta.place .. '/' .. agent)
    meta.place = place
  end
  redis.call('ZADD', ORDER, 0, place .. '/' .. agent)
end

local function alive(instance)
  return instance.deadline > now
    or (instance.deadline > GAP_START and now < GAP_UNTIL)
end

-- The live instance that holds a lease.
local function holder(lease)
  if not lease or lease.instance == '' then return nil end
  local instance = read(INSTANCES, lease.instance)
  if instance and instance.boot == lease.boot and alive(instance) then
    return instance
  end
end

-- Offers an agent that must run to whoever has room, from a time on. FREE holds no more
-- than hints: who claims looks at the record and at the lease.
local function offer(agent, from)
  redis.call('ZADD', FREE, 'LT', from, agent)
end

-- Offers all that a boot leases; says whether there is any.
local function offer_leases_of(slot, boot, from)
  local raw, any = redis.call('HGETALL', LEASES), false
  for i = 1, #raw, 2 do
    local lease = cjson.decode(raw[i + 1])
    if lease.instance == slot and lease.boot == boot then
      offer(raw[i], from)
      any = true
    end
  end
  return any
end

-- Keeps an instance alive for one TTL more.
local function renew(slot, instance)
  instance.deadline = now + TTL
  write(INSTANCES, slot, instance)
  redis.call('ZADD', DEADLINES, instance.deadline, slot)
end

-- The drain that is on: one that binds somebody who is still there.
local function active_drain()
  local raw = redis.call('GET', DRAIN)
  if not raw then return nil end
  local drain = cjson.decode(raw)
  for slot, boot in pairs(drain.bound) do
    local instance = read(INSTANCES, slot)
    if instance and instance.boot == boot and alive(instance) then return drain end
  end
end

-- Those that new leases are spread over, by name, each with what it has.
local function mates(drain)
  local found, by_boot = {}, {}
  local raw = redis.call('HGETALL', INSTANCES)
  for i = 1, #raw, 2 do
    local slot, instance = raw[i], cjson.decode(raw[i + 1])
    local ends = instance.leaving or (drain and drain.bound[slot] == instance.boot)
    if alive(instance) and not ends then
      local limited = instance.capacity > 0
      local mate = {
        slot = slot, boot = instance.boot, sequence = instance.sequence, count = 0,
        capacity = math.min(limited and instance.capacity or a.leases_max, a.leases_max),
        weight = limited and instance.capacity or a.weight_unlimited,
      }
      found[#found + 1], by_boot[slot .. '/' .. instance.boot] = mate, mate
    end
  end
  table.sort(found, function(one, other) return one.slot < other.slot end)
  for _, each in ipairs(redis.call('HVALS', LEASES)) do
    local lease = cjson.decode(each)
    local mate = by_boot[lease.instance .. '/' .. lease.boot]
    if mate then mate.count = mate.count + 1 end
  end
  return found
end

-- The one that one more agent fills least, of those that registered since it was listed.
local function emptiest(all, listed)
  local found, least
  for _, mate in ipairs(all) do
    local fill = (mate.count + 1) / mate.weight
    if mate.count < mate.capacity and listed < mate.sequence
        and not (found and least <= fill) then
      found, least = mate, fill
    end
  end
  return found
end

-- Gives a boot the lease of an agent, under the next epoch.
local function lease_to(slot, boot, agent, meta)
  write(LEASES, agent, {
    epoch = redis.call('HINCRBY', EPOCHS, agent, 1),
    instance = slot, boot = boot, acquired = now,
  })
  meta.state, meta.end_reason, meta.listed = 'active', '', -1
  save(agent, meta)
  redis.call('ZREM', FREE, agent)
  redis.call('HDEL', HANDED, agent)
end

-- Takes the lease of an agent that must run from who has it, for anybody to claim.
local function give_up(agent, meta, lease)
  lease.instance, lease.boot = '', ''
  write(LEASES, agent, lease)
  redis.call('HDEL', HANDED, agent)
  offer(agent, now)
  save(agent, meta)
end

-- A record as an answer: agent, meta, spec, lease, whether it is live, pending.
local function record(agent, meta)
  local lease = redis.call('HGET', LEASES, agent)
  local live = lease and holder(cjson.decode(lease)) and 1 or 0
  return {
    agent, cjson.encode(meta), redis.call('HGET', SPECS, agent) or '', lease or '',
    live, tonumber(redis.call('HGET', WAITING, agent) or 0),
  }
end

local function refuse(reason, details)
  return {reason, cjson.encode(details or {_ = 0})}
end

-- Refuses a caller that is not the boot that has the slot.
local function not_the_boot(instance, boot)
  if not instance then return refuse('INSTANCE_NOT_FOUND') end
  if instance.boot ~= boot then
    return refuse('SLOT_FENCED', {boot = instance.boot})
  end
end

-- Takes a message out of all indexes. Messages are kept under agent/id, and stand
-- in the queues as agent/sequence/id.
local function drop_message(member)
  local agent, message = string.match(member, '^([^/]+)/%d+/(.+)$')
  redis.call('HDEL', MESSAGES, agent .. '/' .. message)
  redis.call('HDEL', TEXTS, agent .. '/' .. message)
  redis.call('ZREM', QUEUE, member)
  redis.call('ZREM', PENDING, member)
  redis.call('ZREM', SETTLED, member)
end

-- The bounds of one agent's part of a queue; '0' follows '/'.
local function span(agent, after)
  local start = after == '' and '[' .. agent .. '/' or '(' .. agent .. '/' .. after
  return start, '(' .. agent .. '0'
end

-- Events lie under agent/id, the ids of their requests under agent/r/request. An event
-- is what is known of it, then its data, which no script looks into.
local function event(agent, id)
  local raw = redis.call('HGET', EVENTS, string.format('%s/%d', agent, id))
  local meta, data = string.match(raw, '^([^\n]*)\n(.*)$')
  return cjson.decode(meta), data, raw
end

-- The oldest id that the log of an agent keeps, or the next one to come.
local function first_event(agent)
  return tonumber(redis.call('HGET', COUNTERS, 'event_first:' .. agent) or 1)
end

-- Drops an event; returns how many bytes the log has left.
local function drop_event(agent, id)
  local meta = event(agent, id)
  redis.call('HDEL', EVENTS, string.format('%s/%d', agent, id))
  if meta.request ~= '' then
    redis.call('HDEL', EVENTS, agent .. '/r/' .. meta.request)
  end
  return redis.call('HINCRBY', COUNTERS, 'event_bytes:' .. agent, -meta.size)
end

-- The nudges of an agent that count still: pending ones in order, and those that were
-- delivered not longer ago than `kept`.
local function nudges(agent, kept)
  local found = {}
  for _, nudge in ipairs(read(NUDGES, agent) or {}) do
    local over = nudge.delivered and nudge.delivered + kept or nudge.expires
    if not over or over > now then found[#found + 1] = nudge end
  end
  return found
end
