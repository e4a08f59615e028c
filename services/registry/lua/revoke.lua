-- Takes tokens back, also those of a run that another one replaces. KEYS, from the sixth:
-- the town's token ids, its runs, the run that each of its agents has as long as tokens of
-- it live ("epoch until run"). ARGV: town, arguments.
local town, a = ARGV[1], cjson.decode(ARGV[2])
local TOKENS, RUNS, CURRENT = KEYS[6], KEYS[7], KEYS[8]

local replaced, replaced_until
if a.begins then
  local begins, raw = a.begins, redis.call('HGET', CURRENT, a.begins.agent)
  local epoch, kept_until, run = string.match(raw or '', '^(%d+) (%d+) (.+)$')
  if epoch and tonumber(kept_until) <= now then epoch, run = nil, nil end
  if epoch and tonumber(epoch) > begins.epoch then return {'FENCED', now, tonumber(epoch)} end
  local new_until = now + a.kept_for
  if run == begins.run then
    new_until = math.max(new_until, tonumber(kept_until))
  elseif run then
    replaced, replaced_until = begins.agent .. '/' .. run, tonumber(kept_until)
  end
  local new = string.format('%d %d %s', begins.epoch, new_until, begins.run)
  redis.call('HSET', CURRENT, begins.agent, new)
  redis.call('ZADD', CURRENT_DUE, 'NX', new_until, town)
  -- News to nobody.
  if not replaced then return {'ok', now, 0} end
end

local due = redis.call('ZSCORE', DUE, town)
if due and tonumber(due) <= now then forget(town, TOKENS, RUNS) end

-- How many of them are not known yet; or -1 when there is no room for those.
local function unknown(key, ids)
  local count = 0
  for _, id in ipairs(ids) do count = count + 1 - redis.call('HEXISTS', key, id) end
  local full = redis.call('HLEN', key) + count > a.entries_max
  return full and count > 0 and -1 or count
end
-- Each has room of its own, and a run that is replaced needs none: whoever fills the one
-- keeps nobody from revoking the other, and no agent from its token.
local tokens, runs = unknown(TOKENS, a.tokens), unknown(RUNS, a.runs)
if tokens < 0 or runs < 0 then return {'TOO_MANY', now} end

local soonest
local function add(key, id, at)
  at = math.max(at, tonumber(redis.call('HGET', key, id) or 0))
  redis.call('HSET', key, id, string.format('%d', at))
  soonest = math.min(soonest or at, at)
end
for _, id in ipairs(a.tokens) do add(TOKENS, id, now + a.kept_for) end
for _, run in ipairs(a.runs) do add(RUNS, run, now + a.kept_for) end
if replaced then add(RUNS, replaced, replaced_until) end

local raw = redis.call('HGET', GENERATIONS, town)
local all = raw and cjson.decode(raw) or {generation = 0, forget = 0}
if a.everything then
  -- Tokens name the second of their issue: all of this one are meant as well.
  all.generation = math.max(all.generation, math.floor(now / 1000) + 1)
  all.forget = math.max(all.forget, now + a.kept_for)
  redis.call('HSET', GENERATIONS, town, cjson.encode(all))
  soonest = math.min(soonest or all.forget, all.forget)
end
if tokens + runs > 0 or replaced or a.everything then changed(town, soonest) end
return {'ok', now, all.generation}
