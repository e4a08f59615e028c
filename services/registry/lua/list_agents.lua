-- Reads records in order, until there are enough or the answer is large enough.
local found, size, after = {}, 0, a.after
while true do
  local start = after == '' and '-' or '(' .. after
  local members = redis.call('ZRANGEBYLEX', ORDER, start, '+', 'LIMIT', 0, 200)
  for _, member in ipairs(members) do
    local agent = string.match(member, '[^/]+$')
    local meta = read(AGENTS, agent)
    if (a.state == '' or a.state == meta.state) and (a.role == '' or a.role == meta.role) then
      if #found == a.limit then return {'ok', now, after, found} end
      local each = record(agent, meta)
      -- A spec that comes out of an entry is sent beside it.
      size = size + 2 * #each[3] + #each[2] + 512
      if #found > 0 and size > a.bytes_max then return {'ok', now, after, found} end
      found[#found + 1] = each
    end
    after = member
  end
  if #members < 200 then return {'ok', now, '', found} end
end
