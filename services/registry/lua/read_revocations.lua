-- Reads what was revoked after a revision; forgets what has become pointless before.
-- KEYS, from the sixth: what stands before a town's name in the keys of its token ids, of
-- its runs and of its current runs; the lists of old. ARGV: the revision that the reader
-- knows.
local TOKENS, RUNS, CURRENT, OLD = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
-- Who starts a run looks at its time, so they are looked through now and then only.
local LOOK_EVERY = 600000

-- Each town's list was one text once, which a run that began had written anew.
local old = redis.call('HGETALL', OLD)
for i = 1, #old, 2 do
  local town, list = old[i], cjson.decode(old[i + 1])
  local function keep(key, ids)
    for id, at in pairs(ids) do
      redis.call('HSET', key .. town, id, string.format('%d', at))
    end
  end
  keep(TOKENS, list.tokens)
  keep(RUNS, list.runs)
  for agent, run in pairs(list.current or {}) do
    local text = string.format('%d %d %s', run.epoch, run.forget, run.run)
    redis.call('HSET', CURRENT .. town, agent, text)
    redis.call('ZADD', CURRENT_DUE, 'NX', run.forget, town)
  end
  if list.generation > 0 then
    local all = {generation = list.generation, forget = list.forget}
    redis.call('HSET', GENERATIONS, town, cjson.encode(all))
  end
end
if #old > 0 then redis.call('DEL', OLD) end

for _, town in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 100)) do
  forget(town, TOKENS .. town, RUNS .. town)
end
local due = redis.call('ZRANGEBYSCORE', CURRENT_DUE, '-inf', now, 'LIMIT', 0, 100)
for _, town in ipairs(due) do
  local raw, soonest = redis.call('HGETALL', CURRENT .. town), nil
  for i = 1, #raw, 2 do
    local at = tonumber(string.match(raw[i + 1], ' (%d+) '))
    if at <= now then
      redis.call('HDEL', CURRENT .. town, raw[i])
    else
      soonest = math.min(soonest or at, at)
    end
  end
  redis.call('ZREM', CURRENT_DUE, town)
  if soonest then
    redis.call('ZADD', CURRENT_DUE, math.max(soonest, now + LOOK_EVERY), town)
  end
end

local revision = tonumber(redis.call('GET', REVISION) or 0)
local since = tonumber(ARGV[1])
-- A reader who knows more than there is knew another store.
local whole = since <= 0 or since > revision
local towns = redis.call('ZRANGEBYSCORE', CHANGES, whole and '-inf' or '(' .. since, '+inf')
local found = {}
for _, town in ipairs(towns) do
  found[#found + 1] = {
    town, redis.call('HKEYS', TOKENS .. town), redis.call('HKEYS', RUNS .. town),
    redis.call('HGET', GENERATIONS, town) or '',
  }
end
return {now, revision, whole and 1 or 0, found}
