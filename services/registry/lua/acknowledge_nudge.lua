-- Marks a nudge as delivered, and forgets the oldest delivered ones beyond a bound.
local known, found, delivered = nudges(a.agent, a.delivered_kept), nil, 0
for place, nudge in ipairs(known) do
  if nudge.id == a.nudge then found = place end
  if nudge.delivered then delivered = delivered + 1 end
end
if not found then return refuse('NUDGE_NOT_FOUND') end
if known[found].delivered then return {'ok', now} end
-- Those that are delivered stand behind those that wait, in the order of delivery.
local nudge = table.remove(known, found)
nudge.delivered, nudge.text = now, ''
known[#known + 1] = nudge
if delivered >= a.delivered_max then
  for place, each in ipairs(known) do
    if each.delivered then
      table.remove(known, place)
      break
    end
  end
end
write(NUDGES, a.agent, known)
return {'ok', now}
