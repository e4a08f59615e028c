-- Reads the last report of each kind.
if redis.call('HEXISTS', AGENTS, a.agent) == 0 then return refuse('AGENT_NOT_FOUND') end
local found = {}
for _, kind in ipairs(a.kinds) do
  local raw = redis.call('HGET', REPORTS, a.agent .. '/' .. kind)
  if raw then found[#found + 1] = {kind, raw} end
end
return {'ok', now, found}
