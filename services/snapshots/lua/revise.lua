-- Replaces the record of a generation that exists, if it still says what was read, and
-- moves it to the deleted ones or back if it says so.
-- An empty text stands for a record that only the blob store has; the mark tells if
-- that was changed since, and moved there again.
-- ARGV: generation, record that was read, new record, its revision, its mark, its member
-- of the index, that of the deleted or '', epoch or '*' for anybody, match.
local generation, old, new, revision, mark = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local member, deleted, epoch, match = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local found = redis.call('ZCOUNT', KEYS[2], generation, generation)
  + redis.call('ZCOUNT', KEYS[5], generation, generation)
if found == 0 then
  return { 'absent' }
end
local state = redis.call('HMGET', KEYS[1], 'epoch', 'head')
local head = state[2] or '0'
if epoch ~= '*' and tonumber(epoch == '' and '0' or epoch) ~= tonumber(state[1] or '0') then
  return { 'fenced' }
end
if match ~= '' and tonumber(match) ~= tonumber(head) then
  return { 'mismatch', head }
end
if deleted ~= '' and generation == head then
  return { 'head', head }
end
local now = redis.call('HGET', KEYS[3], generation) or ''
if now ~= old and now ~= new then
  return { 'moved' }
end
local marked = redis.call('HGET', KEYS[4], generation) or '0'
if now == '' and tonumber(string.match(marked, '^%d+')) >= tonumber(revision) then
  return { 'moved' }
end
-- What it says already is written again: waiting for replicas waits for this one.
redis.call('HSET', KEYS[3], generation, new)
redis.call('HSET', KEYS[4], generation, mark)
redis.call('ZREMRANGEBYSCORE', KEYS[2], generation, generation)
redis.call('ZREMRANGEBYSCORE', KEYS[5], generation, generation)
if deleted ~= '' then
  redis.call('ZADD', KEYS[5], generation, deleted)
else
  redis.call('ZADD', KEYS[2], generation, member)
end
redis.call('HINCRBY', KEYS[1], 'changes', 1)
if deleted == '' and tonumber(generation) >= tonumber(head) then
  -- A commit that read the earlier record builds on a list that is not kept.
  redis.call('HSET', KEYS[1], 'head', generation)
  redis.call('HINCRBY', KEYS[1], 'revision', 1)
end
return { 'done' }
