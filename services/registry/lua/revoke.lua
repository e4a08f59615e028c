-- Takes tokens back, also those of a run that another one replaces. Without the prelude:
-- the lists of all towns lie beside those of each. KEYS: lists by town, towns by the revision of their change, towns by the time
-- when something of theirs can be forgotten, the revision. ARGV: town, arguments.
local town, a = ARGV[1], cjson.decode(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local raw = redis.call('HGET', KEYS[1], town)
local list = raw and cjson.decode(raw) or {generation = 0, forget = 0, tokens = {}, runs = {}}
-- The run that each agent has, as long as tokens of it live.
list.current = list.current or {}

local soonest
local function keep(ids)
  local count = 0
  for id, forget in pairs(ids) do
    if forget <= now then
      ids[id] = nil
    else
      count = count + 1
      soonest = math.min(soonest or forget, forget)
    end
  end
  return count
end
local function add(ids, new)
  local grows = false
  for _, id in ipairs(new) do
    grows = grows or not ids[id]
    ids[id] = math.max(ids[id] or 0, now + a.kept_for)
  end
  return grows
end
local more_tokens, more_runs = add(list.tokens, a.tokens), add(list.runs, a.runs)
if a.begins then
  local begins, old = a.begins, list.current[a.begins.agent]
  if old and old.forget <= now then old = nil end
  if old and old.epoch > begins.epoch then return {'FENCED', now, old.epoch} end
  local forget = now + a.kept_for
  if old and old.run == begins.run then
    forget = math.max(forget, old.forget)
  elseif old then
    list.runs[begins.agent .. '/' .. old.run] = old.forget
  end
  list.current[begins.agent] = {run = begins.run, epoch = begins.epoch, forget = forget}
end
-- Each has room of its own, and a run that begins needs none: whoever fills the one
-- keeps nobody from revoking the other, and no agent from its token.
local full = keep(list.tokens) > a.entries_max and more_tokens
full = keep(list.runs) > a.entries_max and more_runs or full
for agent, run in pairs(list.current) do
  if run.forget <= now then
    list.current[agent] = nil
  else
    soonest = math.min(soonest or run.forget, run.forget)
  end
end
if full then return {'TOO_MANY', now} end
if a.everything then
  -- Tokens name the second of their issue: all of this one are meant as well.
  list.generation = math.max(list.generation, math.floor(now / 1000) + 1)
  list.forget = math.max(list.forget, now + a.kept_for)
end
if list.generation > 0 then soonest = math.min(soonest or list.forget, list.forget) end

local after = cjson.encode(list)
if after ~= raw then
  redis.call('HSET', KEYS[1], town, after)
  redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[4]), town)
  redis.call('ZADD', KEYS[3], soonest or now, town)
end
return {'ok', now, list.generation}
