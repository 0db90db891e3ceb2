-- The keys of subjects, in the hash <subjects>:
--   "s:<subject>"     the id of the key that is in use for a subject
--   "k:<key id>"      the key, wrapped by a master key; or that it was destroyed
--   "r:<request id>"  what was answered to a request to erase
--   "p"               of the key that the project's other events are sealed with: its id, for how
--                     many events it was given out, and since when, in unix ms

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

-- Returns the key that seals a project's events that name no subject: the one given, if there is none,
-- or the one in use has been given out for enough events or for long enough.
--
-- KEYS  subjects
-- ARGV  key id, wrapped key, how many events are to be sealed with it, the most that one key seals,
--       for how many ms it is used
local function project_key(keys, args)
  local count, ms = tonumber(args[3]), now_ms()
  local id, given, since = string.match(redis.call('HGET', keys[1], 'p') or '', '^(%S+) (%d+) (%d+)$')
  if id and given + count <= tonumber(args[4]) and ms < since + tonumber(args[5]) then
    local wrapped = redis.call('HGET', keys[1], 'k:' .. id)
    if wrapped then
      redis.call('HSET', keys[1], 'p', id .. ' ' .. whole(given + count) .. ' ' .. since)
      return { id, wrapped }
    end
  end
  redis.call('HSET', keys[1], 'k:' .. args[1], args[2], 'p', args[1] .. ' ' .. whole(count) .. ' ' .. whole(ms))
  return { args[1], args[2] }
end

-- Replaces keys by themselves wrapped anew, where they are still what they were taken for.
--
-- KEYS  subjects
-- ARGV  for each key: id, as it was stored, as it is to be stored
-- Returns how many were replaced.
local function rewrap(keys, args)
  local replaced = 0
  for i = 1, #args, 3 do
    if redis.call('HGET', keys[1], 'k:' .. args[i]) == args[i + 1] then
      redis.call('HSET', keys[1], 'k:' .. args[i], args[i + 2])
      replaced = replaced + 1
    end
  end
  return replaced
end

-- Notes that a process wraps with a master key, and tells with which the others do.
--
-- KEYS  masters, rotated
-- ARGV  id of the master key, process, for how many ms the key is in use without being noted again; 0:
--       it is not any more
-- Returns whether no key is wrapped by another any more, as `rotated` says, then the ids of all master
-- keys that are in use.
local function use_master(keys, args)
  local ms, member = now_ms(), args[1] .. ' ' .. args[2]
  if tonumber(args[3]) > 0 then
    redis.call('ZADD', keys[1], whole(ms + args[3]), member)
  else
    redis.call('ZREM', keys[1], member)
  end
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', whole(ms))
  local rotated = redis.call('GET', keys[2])
  if rotated and rotated ~= args[1] then redis.call('DEL', keys[2]) end
  local reply = { rotated == args[1] and 1 or 0 }
  for _, used in ipairs(redis.call('ZRANGE', keys[1], 0, -1)) do
    reply[#reply + 1] = string.match(used, '^%S+')
  end
  return reply
end

-- KEYS  encryption, audit
-- ARGV  "1" if events are to be encrypted that name no subject, or "", action, retention of audit
--       records in ms
local function put_encryption(keys, args)
  if args[1] == '' then
    redis.call('DEL', keys[1])
  else
    redis.call('SET', keys[1], args[1])
  end
  record(keys[2], now(), tonumber(args[3]), 'x', args[2])
  return 1
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
redis.register_function('contex1_project_key', project_key)
redis.register_function('contex1_rewrap', rewrap)
redis.register_function('contex1_use_master', use_master)
redis.register_function('contex1_put_encryption', put_encryption)
redis.register_function('contex1_erase', erase)
