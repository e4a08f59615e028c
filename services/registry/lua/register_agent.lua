-- Creates a record, or replaces its spec.
if a.request_id ~= '' then
  local old = redis.call(
    'ZRANGEBYSCORE', REQUEST_TIMES, '-inf', now - a.requests_kept, 'LIMIT', 0, 100)
  for _, id in ipairs(old) do
    redis.call('HDEL', REQUESTS, id)
    redis.call('ZREM', REQUEST_TIMES, id)
  end
  local first = read(REQUESTS, a.request_id)
  if first then
    if first.digest ~= a.request_digest then return refuse('REQUEST_REUSED') end
    local answer = first.answer
    return {'ok', now, {answer[1], answer[2], ARGV[5], answer[3], answer[4], answer[5]}}
  end
end

local meta = read(AGENTS, a.agent)
local revision = meta and string.format('%d', meta.revision) or ''
if a.etag ~= '' and a.etag ~= revision then
  return refuse('ETAG_MISMATCH', {etag = revision})
end
local before = meta and cjson.encode(meta)
if not meta then
  if redis.call('HLEN', AGENTS) >= a.agents_max then return refuse('TOO_MANY_AGENTS') end
  meta = new_meta()
  if a.configure_only then meta.state = 'configured' end
  put(a.agent, meta, UNLISTED)
end

if meta.digest == a.digest and stale_seal(a.agent, ARGV[5]) then
  redis.call('HSET', SPECS, a.agent, ARGV[5])
end
if meta.digest ~= a.digest then
  redis.call('HSET', SPECS, a.agent, ARGV[5])
  meta.digest, meta.role, meta.database = a.digest, a.role, a.database
end
if not meta.claimable then meta.claimable, meta.last_error = true, '' end
if not a.configure_only then
  -- Somebody wants it now: it need not wait for the next boot.
  meta.state, meta.listed = 'active', -1
elseif meta.state ~= 'active' then
  meta.state = 'configured'
end
if meta.state ~= 'ended' then meta.end_reason = '' end
if cjson.encode(meta) ~= before then save(a.agent, meta) end

local answer = record(a.agent, meta)
if a.request_id ~= '' then
  write(REQUESTS, a.request_id, {
    digest = a.request_digest,
    answer = {answer[1], answer[2], answer[4], answer[5], answer[6]},
  })
  redis.call('ZADD', REQUEST_TIMES, now, a.request_id)
end
return {'ok', now, answer}
