-- Reads what was revoked after a revision; forgets what has become pointless before.
-- KEYS as in revoke.lua. ARGV: the revision that the reader knows.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function keep(ids, soonest)
  for id, forget in pairs(ids) do
    if forget <= now then
      ids[id] = nil
    else
      soonest = math.min(soonest or forget, forget)
    end
  end
  return soonest
end
for _, town in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 100)) do
  local list = cjson.decode(redis.call('HGET', KEYS[1], town))
  local soonest = keep(list.runs, keep(list.tokens))
  for agent, run in pairs(list.current or {}) do
    if run.forget <= now then
      list.current[agent] = nil
    else
      soonest = math.min(soonest or run.forget, run.forget)
    end
  end
  if list.forget <= now then list.generation = 0 end
  if list.generation > 0 then soonest = math.min(soonest or list.forget, list.forget) end
  if soonest then
    redis.call('HSET', KEYS[1], town, cjson.encode(list))
    redis.call('ZADD', KEYS[3], soonest, town)
  else
    redis.call('HDEL', KEYS[1], town)
    redis.call('ZREM', KEYS[3], town)
  end
  -- Also of a town that has none any more: readers must forget it too.
  redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[4]), town)
end

local revision = tonumber(redis.call('GET', KEYS[4]) or 0)
local since = tonumber(ARGV[1])
-- A reader who knows more than there is knew another store.
local whole = since <= 0 or since > revision
local towns = redis.call('ZRANGEBYSCORE', KEYS[2], whole and '-inf' or '(' .. since, '+inf')
local found = {}
for _, town in ipairs(towns) do
  found[#found + 1] = {town, redis.call('HGET', KEYS[1], town) or ''}
end
return {now, revision, whole and 1 or 0, found}
