-- Reads what changed after a revision, oldest first, until there is enough of it. A
-- record stands in the log once, at its last change. `since` is where the list began
-- that a watch starts with: who was gone by then was never in it.

-- A town's log begins with its first watch. What changed since there are logs stands in
-- it already; of what is older, each record knows when it last changed.
local log = redis.call('HGET', WATCH, 'log')
local first = not log
if first then
  local raw = {}
  if redis.call('ZCARD', CHANGES) < redis.call('HLEN', AGENTS) then
    raw = redis.call('HGETALL', AGENTS)
  end
  for i = 1, #raw, 2 do
    redis.call('ZADD', CHANGES, 'NX', cjson.decode(raw[i + 1]).revision, raw[i])
  end
  log = string.format('%d', now)
  redis.call('HSET', WATCH, 'log', log)
end

-- Instances come and go by mere time as well. Whoever reads first after that writes it
-- down: the leases of those that were live when last looked at, and are not, or else
-- the other way round, have changed.
local seen = cjson.decode(redis.call('HGET', WATCH, 'lives') or '{}')
local lives, turned = {}, false
local raw = redis.call('HGETALL', INSTANCES)
for i = 1, #raw, 2 do
  local instance = cjson.decode(raw[i + 1])
  if alive(instance) then lives[raw[i]] = instance.boot end
end
for slot, boot in pairs(lives) do turned = turned or seen[slot] ~= boot end
for slot, boot in pairs(seen) do turned = turned or lives[slot] ~= boot end
if turned then
  -- Nobody was told anything before the first look.
  raw = first and {} or redis.call('HGETALL', LEASES)
  for i = 1, #raw, 2 do
    local lease = cjson.decode(raw[i + 1])
    local was, is = seen[lease.instance] == lease.boot, lives[lease.instance] == lease.boot
    if was ~= is then note(raw[i]) end
  end
  redis.call('HSET', WATCH, 'lives', cjson.encode(lives))
end

local head = tonumber(redis.call('HGET', COUNTERS, 'revision') or 0)
local compacted = tonumber(redis.call('HGET', WATCH, 'compacted') or 0)
local since = a.log == '' and head or a.since
local gone_after = math.max(a.after, since)
if a.log ~= '' and (a.log ~= log or gone_after > head or gone_after < compacted) then
  return refuse('RESUME_TOKEN_EXPIRED')
end

local function after(key, revision)
  return redis.call('ZRANGEBYSCORE', key, string.format('(%d', revision), '+inf',
    'WITHSCORES', 'LIMIT', 0, a.limit)
end
local changes, gone = after(CHANGES, a.after), after(GONE, gone_after)
local found, size, c, g = {}, 0, 1, 1
while #found < a.limit do
  local changed_at, gone_at = tonumber(changes[c + 1]), tonumber(gone[g + 1])
  if not changed_at and not gone_at then
    return {'ok', now, log, since, head, 1, found}
  end
  if changed_at and (not gone_at or changed_at < gone_at) then
    local each = record(changes[c], read(AGENTS, changes[c]))
    -- A spec that comes out of an entry is sent beside it.
    size = size + 2 * #each[3] + #each[2] + 512
    if #found > 0 and size > a.bytes_max then break end
    found[#found + 1] = {changed_at, changes[c], each}
    c = c + 2
  else
    found[#found + 1] = {gone_at, gone[g]}
    g = g + 2
  end
end
return {'ok', now, log, since, head, 0, found}
