-- A page of each index, newest first: all in one read, as generations move between them.
-- ARGV: highest, how many at most.
local found = {}
for _, key in ipairs(KEYS) do
  local page = redis.call('ZREVRANGEBYSCORE', key, ARGV[1], '-inf', 'LIMIT', 0, ARGV[2])
  table.insert(found, page)
end
return found
