-- Replaces the record of a generation that exists, if it still says what was read.
-- An empty text stands for a record that only the blob store has; the mark tells if
-- that was changed since, and moved there again.
-- ARGV: generation, record that was read, new record, its revision, its mark.
local generation, old, new, revision, mark = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('ZCOUNT', KEYS[2], generation, generation) == 0 then
  return 'absent'
end
local now = redis.call('HGET', KEYS[3], generation) or ''
if now ~= old and now ~= new then
  return 'moved'
end
local marked = redis.call('HGET', KEYS[4], generation) or '0'
if now == '' and tonumber(string.match(marked, '^%d+')) >= tonumber(revision) then
  return 'moved'
end
-- What it says already is written again: waiting for replicas waits for this one.
redis.call('HSET', KEYS[3], generation, new)
redis.call('HSET', KEYS[4], generation, mark)
if generation == redis.call('HGET', KEYS[1], 'head') then
  -- A commit that read the earlier record builds on a list that is not kept.
  redis.call('HINCRBY', KEYS[1], 'revision', 1)
end
return 'done'
