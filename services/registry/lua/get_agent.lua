-- Reads one record.
local meta = read(AGENTS, a.agent)
if not meta then return refuse('AGENT_NOT_FOUND') end
return {'ok', now, record(a.agent, meta)}
