-- Replaces the spec of one version of a record.
local meta = read(AGENTS, a.agent)
if not meta then return refuse('AGENT_NOT_FOUND') end
local revision = string.format('%d', meta.revision)
if a.etag ~= revision then return refuse('ETAG_MISMATCH', {etag = revision}) end
if meta.digest == a.digest and stale_seal(a.agent, ARGV[5]) then
  redis.call('HSET', SPECS, a.agent, ARGV[5])
end
if meta.digest ~= a.digest then
  redis.call('HSET', SPECS, a.agent, ARGV[5])
  meta.digest, meta.role, meta.database = a.digest, a.role, a.database
  if not meta.claimable then meta.claimable, meta.last_error = true, '' end
  save(a.agent, meta)
end
return {'ok', now, record(a.agent, meta)}
