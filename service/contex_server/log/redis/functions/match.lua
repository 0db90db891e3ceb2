-- keys and args: as `change_model` has them
local function switch_model(keys, args)
  redis.call('HSET', keys[6], 'model', args[2])
  redis.call('UNLINK', keys[7])
  local sequence = add_alone(keys, args[4], args[3])
  record(keys[5], now(), tonumber(args[6]), 'm', sequence .. '\t' .. args[5])
  return sequence
end

-- Lets another embedding model decide in a project, and tells it in the log.
--
-- Called by servers that know only relative scores: they may not take a project back that others
-- of the deployment have moved to absolute ones.
--
-- KEYS  events, stats, activity, activity-open, audit, matching, vectors of the old model
-- ARGV  old model, new model, event type, event body, origin, retention of audit records in ms
-- Returns the event's sequence, or nil if the old model did not decide any more.
local function change_model(keys, args)
  if (redis.call('HGET', keys[6], 'model') or '') ~= args[1] then return nil end
  local was_absolute = string.sub(args[1], -2) == '#2'
  if was_absolute and string.sub(args[2], -2) ~= '#2' then return nil end
  return switch_model(keys, args)
end

-- The same for servers that know absolute scores. Drops the backgrounds of the old model, and what
-- an earlier turn of the new one may have left: it starts without a background.
--
-- KEYS  events, stats, activity, activity-open, audit, matching, vectors of the old model,
--       backgrounds of the old model, backgrounds of the new model
-- ARGV  as above
local function change_decider(keys, args)
  if (redis.call('HGET', keys[6], 'model') or '') ~= args[1] then return nil end
  redis.call('UNLINK', keys[8], keys[9])
  return switch_model(keys, args)
end

-- Stores a background of the model that decides, under the sequence of the event that tells it.
--
-- KEYS  events, stats, activity, activity-open, audit, matching, backgrounds of the model
-- ARGV  model, size, background, event type, event body, origin, retention of audit records in ms
-- Returns the event's sequence, or nil if another model decides, or there is a background of this
-- size or a larger one.
local function set_background(keys, args)
  if (redis.call('HGET', keys[6], 'model') or '') ~= args[1] then return nil end
  if tonumber(redis.call('HGET', keys[7], 'size') or '0') >= tonumber(args[2]) then return nil end
  local sequence = add_alone(keys, args[5], args[4])
  redis.call('HSET', keys[7], 'size', args[2], sequence, args[3])
  record(keys[5], now(), tonumber(args[7]), 'b', sequence .. '\t' .. args[6])
  return sequence
end

redis.register_function('contex1_change_model', change_model)
redis.register_function('contex2_change_model', change_decider)
redis.register_function('contex1_set_background', set_background)
