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

redis.register_function('contex1_change_model', change_model)
