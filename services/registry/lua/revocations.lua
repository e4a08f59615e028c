-- Stands in front of the scripts about what was revoked, in all towns. KEYS: towns by the
-- revision of their change, towns by the time when something of theirs can be forgotten,
-- the revision, the generation of each town, towns by the time when a current run of
-- theirs can be forgotten. What a town has revoked lies in two hashes, token ids and
-- `agent/run`, each with the time when it can be forgotten (ms).
local CHANGES, DUE, REVISION, GENERATIONS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local CURRENT_DUE = KEYS[5]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Has those who follow told of a town; `soonest`: when something of it is to be forgotten.
local function changed(town, soonest)
  redis.call('ZADD', CHANGES, redis.call('INCR', REVISION), town)
  if soonest then redis.call('ZADD', DUE, 'LT', soonest, town) end
end

-- Forgets what has become pointless. Also of a town that has nothing then: those who
-- follow must forget it too.
local function forget(town, tokens, runs)
  local soonest
  for _, key in ipairs({tokens, runs}) do
    local raw = redis.call('HGETALL', key)
    for i = 1, #raw, 2 do
      local at = tonumber(raw[i + 1])
      if at <= now then
        redis.call('HDEL', key, raw[i])
      else
        soonest = math.min(soonest or at, at)
      end
    end
  end
  local raw = redis.call('HGET', GENERATIONS, town)
  local at = raw and cjson.decode(raw).forget
  if raw and at <= now then
    redis.call('HDEL', GENERATIONS, town)
  elseif raw then
    soonest = math.min(soonest or at, at)
  end
  redis.call('ZREM', DUE, town)
  changed(town, soonest)
end

