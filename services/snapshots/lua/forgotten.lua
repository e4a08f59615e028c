-- Those of the generations that were here and are no more. What is newer than all that
-- we know of was perhaps never here: a memory that was lost tells of no deletion.
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '0')
local gone = {}
for _, generation in ipairs(ARGV) do
  local found = redis.call('ZCOUNT', KEYS[2], generation, generation)
    + redis.call('ZCOUNT', KEYS[3], generation, generation)
  if found == 0 and tonumber(generation) <= last then
    table.insert(gone, generation)
  end
end
return gone
