-- Keeps the last report of a kind; its text is ARGV[5].
if redis.call('HEXISTS', AGENTS, a.agent) == 0 then return refuse('AGENT_NOT_FOUND') end
redis.call('HSET', REPORTS, a.agent .. '/' .. a.kind,
  string.format('%d\n', now) .. ARGV[5])
local drain = active_drain()
return {'ok', now, drain and drain.nonce or ''}
