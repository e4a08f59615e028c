-- Accepts a nudge.
if redis.call('HEXISTS', AGENTS, a.agent) == 0 then return refuse('AGENT_NOT_FOUND') end
local known, pending = nudges(a.agent, a.delivered_kept), 0
for _, nudge in ipairs(known) do
  if nudge.id == a.nudge then
    if nudge.digest ~= a.digest then return refuse('NUDGE_REUSED') end
    return {'ok', now, 0, cjson.encode(nudge)}
  end
  if not nudge.delivered then pending = pending + 1 end
end
if pending >= a.pending_max then return refuse('INBOX_FULL') end
local nudge = {
  id = a.nudge, text = a.text, mode = a.mode, priority = a.priority,
  source = a.source, digest = a.digest, created = now,
  expires = a.ttl > 0 and now + a.ttl or nil,
}
known[#known + 1] = nudge
write(NUDGES, a.agent, known)
return {'ok', now, 1, cjson.encode(nudge)}
