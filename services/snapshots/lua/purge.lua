-- Forgets deleted generations whose time is over; answers with them.
local gone = {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local generation, purge_us = string.match(member, '^(%d+):%-?%d+:(%-?%d+)$')
  if tonumber(purge_us) <= tonumber(ARGV[1]) then
    redis.call('ZREM', KEYS[3], member)
    redis.call('HDEL', KEYS[1], generation)
    redis.call('HDEL', KEYS[2], generation)
    table.insert(gone, generation)
  end
end
return gone
