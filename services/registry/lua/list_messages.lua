-- Reads messages in order, until there are enough or the answer is large enough.
if redis.call('HEXISTS', AGENTS, a.agent) == 0 then return refuse('AGENT_NOT_FOUND') end
local found, size, after = {}, 0, a.after
local queue = a.state == 'pending' and PENDING or QUEUE
while true do
  local start, stop = span(a.agent, after)
  local members = redis.call('ZRANGEBYLEX', queue, start, stop, 'LIMIT', 0, 100)
  for _, member in ipairs(members) do
    local place = string.sub(member, #a.agent + 2)
    local id = string.match(place, '[^/]+$')
    local field = a.agent .. '/' .. id
    local message = read(MESSAGES, field)
    local kept = not message.settled or message.settled > now - a.settled_kept
    if kept and (a.state == '' or a.state == message.state) then
      if #found == a.limit then return {'ok', now, after, found} end
      local text = redis.call('HGET', TEXTS, field)
      size = size + #text + 512
      if #found > 0 and size > a.bytes_max then return {'ok', now, after, found} end
      found[#found + 1] = {id, cjson.encode(message), text}
    end
    after = place
  end
  if #members < 100 then return {'ok', now, '', found} end
end
