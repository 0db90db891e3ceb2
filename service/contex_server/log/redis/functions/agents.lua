-- Writes, replaces or removes a registration, and its event, if it is still as expected.
--
-- KEYS  events, stats, activity, activity-open, audit, journal … cursors
-- ARGV  agent id, expected record ("" = absent), new record ("" = remove),
--       cursor ("" = keep, or the new event's sequence for a new agent), event type,
--       event body, origin, retention of audit records in ms, retention of the journal in
--       ms, entries kept
-- Returns {sequence, cursor}, or nil if the record was not the expected one.
local function agent(keys, args)
  local a = agent_keys(keys, 6)
  local id, expected, new, cursor = args[1], args[2], args[3], args[4]
  local limits = { retention_ms = tonumber(args[9]), entries = tonumber(args[10]) }
  if (redis.call('HGET', a.agents, id) or '') ~= expected then return nil end
  begin(a, id, limits)
  local sequence = add_alone(keys, args[6], args[5])
  local gone = new == ''
  local line = sequence .. ' ' .. (gone and 'U ' or 'L ')
  record(keys[5], now(), tonumber(args[8]), 'r', line .. id .. '\t' .. args[7])
  if gone then
    redis.call('HDEL', a.agents, id)
    redis.call('HDEL', a.cursors, id)
    redis.call('XADD', a.journal, '*', 'r', line .. '\t' .. args[7])
    redis.call('DEL', a.sent)
    if limits.retention_ms > 0 then
      redis.call('PEXPIRE', a.journal, limits.retention_ms)
      redis.call('PEXPIRE', a.streams, limits.retention_ms)
    end
    return { sequence, '' }
  end
  redis.call('HSET', a.agents, id, new)
  if cursor ~= '' then
    redis.call('HSET', a.cursors, id, cursor)
  elseif redis.call('HSETNX', a.cursors, id, sequence) == 1 then
    cursor = sequence
  else
    cursor = redis.call('HGET', a.cursors, id)
  end
  redis.call('XADD', a.journal, '*', 'r', line .. cursor .. '\t' .. args[7], 'record', new)
  redis.call('PERSIST', a.journal)
  redis.call('PERSIST', a.streams)
  return { sequence, cursor }
end

-- Moves an agent's cursor forward.
--
-- KEYS  journal … cursors
-- ARGV  agent id, retention in ms, entries kept, sequence, origin
-- Returns where the cursor stands, or nil if there is no such agent.
local function acknowledge(keys, args)
  local a, id, wanted = agent_keys(keys, 1), args[1], args[4]
  local limits = { retention_ms = tonumber(args[2]), entries = tonumber(args[3]) }
  if redis.call('HEXISTS', a.agents, id) == 0 then return nil end
  begin(a, id, limits)
  local stands = redis.call('HGET', a.cursors, id) or '0-0'
  local held_ms, held_n = split(stands)
  local ms, n = split(wanted)
  if ms > held_ms or (ms == held_ms and n > held_n) then
    stands = wanted
    redis.call('HSET', a.cursors, id, wanted)
  end
  redis.call('XADD', a.journal, '*', 'a', wanted .. ' ' .. stands .. '\t' .. args[5])
  return stands
end

-- Lets another embedding model decide in a project, and tells it in the log.
--
-- KEYS  events, stats, activity, activity-open, audit, matching, vectors of the old model
-- ARGV  old model, new model, event type, event body, origin, retention of audit records in ms
-- Returns the event's sequence, or nil if the old model did not decide any more.
local function change_model(keys, args)
  if (redis.call('HGET', keys[6], 'model') or '') ~= args[1] then return nil end
  redis.call('HSET', keys[6], 'model', args[2])
  redis.call('UNLINK', keys[7])
  local sequence = add_alone(keys, args[4], args[3])
  record(keys[5], now(), tonumber(args[6]), 'm', sequence .. '\t' .. args[5])
  return sequence
end

redis.register_function('contex1_agent', agent)
redis.register_function('contex1_acknowledge', acknowledge)
redis.register_function('contex1_change_model', change_model)
