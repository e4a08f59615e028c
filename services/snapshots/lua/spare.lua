-- Takes segments out of the trash, unless one of them is condemned: then its name.
local trashed = {}
for _, segment in ipairs(ARGV) do
  local since = redis.call('ZSCORE', KEYS[1], segment)
  if since and tonumber(since) < 0 then
    return segment
  end
  if since then
    table.insert(trashed, segment)
  end
end
for _, segment in ipairs(trashed) do
  redis.call('ZREM', KEYS[1], segment)
end
return 'done'
