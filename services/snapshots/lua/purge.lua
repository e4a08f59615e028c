-- Forgets deleted generations whose time is over; answers with them.
local gone = {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  local generation, purge_us = string.match(member, '^(%d+):%-?%d+:(%-?%d+)$')
  if tonumber(purge_us) <= tonumber(ARGV[1]) then
    redis.call('ZREM', KEYS[4], member)
    redis.call('HDEL', KEYS[2], generation)
    redis.call('HDEL', KEYS[3], generation)
    table.insert(gone, generation)
  end
end
if #gone > 0 then
  redis.call('HINCRBY', KEYS[1], 'changes', 1)
end
return gone
