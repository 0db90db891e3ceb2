-- The keys of subjects, in the hash <subjects>:
--   "s:<subject>"     the id of the key that is in use for a subject
--   "k:<key id>"      the key, wrapped by a master key; or that it was destroyed
--   "r:<request id>"  what was answered to a request to erase

-- Returns the key that is in use for a subject: the one given, if there is none.
--
-- KEYS  subjects
-- ARGV  subject, key id, wrapped key
local function subject_key(keys, args)
  if redis.call('HSETNX', keys[1], 's:' .. args[1], args[2]) == 1 then
    redis.call('HSET', keys[1], 'k:' .. args[2], args[3])
    return { args[2], args[3] }
  end
  local id = redis.call('HGET', keys[1], 's:' .. args[1])
  return { id, redis.call('HGET', keys[1], 'k:' .. id) }
end

-- Destroys a subject's key, if one is named, and appends the event that tells the erasure.
--
-- KEYS  events, stats, activity, activity-open, audit, state, subjects
-- ARGV  request id, subject or "", key id or "", what stands in the key's place, how many
--       events, event type, event body, action for the audit, retention of audit records in
--       ms, then the latest events that were erased: data key, sequence
-- Returns the sequence of the event.
local function erase(keys, args)
  local subjects, request = keys[7], 'r:' .. args[1]
  local answered = redis.call('HGET', subjects, request)
  if answered then return string.match(answered, '^%S+') end
  if args[3] ~= '' then
    redis.call('HSET', subjects, 'k:' .. args[3], args[4])
    if redis.call('HGET', subjects, 's:' .. args[2]) == args[3] then
      redis.call('HDEL', subjects, 's:' .. args[2])
    end
  end
  for i = 10, #args, 2 do
    local value = redis.call('HGET', keys[6], args[i])
    if value then
      local revision, sequence, mark = string.match(value, STATE)
      if sequence == args[i + 1] then
        redis.call('HSET', keys[6], args[i], revision .. ' ' .. sequence .. ' ' .. mark)
      end
    end
  end
  -- What of them carries over is read again from the events.
  redis.call('UNLINK', (string.gsub(keys[1], 'events$', 'descriptions')))
  local placed = add_alone(keys, args[7], args[6])
  redis.call('HSET', subjects, request, placed .. ' ' .. args[5])
  record(keys[5], now(), tonumber(args[9]), 'x', args[8])
  return placed
end

redis.register_function('contex1_subject_key', subject_key)
redis.register_function('contex1_erase', erase)
