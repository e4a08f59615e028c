-- Reads the pending nudges of an agent, urgent ones first, then the oldest.
if redis.call('HEXISTS', AGENTS, a.agent) == 0 then return refuse('AGENT_NOT_FOUND') end
local found = {}
for _, priority in ipairs({'urgent', 'normal'}) do
  for _, nudge in ipairs(nudges(a.agent, 0)) do
    if nudge.priority == priority and not nudge.delivered then
      found[#found + 1] = cjson.encode(nudge)
    end
  end
end
return {'ok', now, found}
