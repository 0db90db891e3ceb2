-- Imports. Events are restored as they were, into a project that nobody sees yet, whose name
-- is that of the project to be and "~" and more, or behind the end of one that is there.

-- Appends events with the sequences that they had.
--
-- KEYS  events, stats, activity, activity-open, state, import
-- ARGV  the tail as it must be, what to keep in <import> ("" = nothing), "A" if the archive
--       has the events and they are only counted here, then for each event: sequence, body, data key or "", revision, "T" (tombstone) or "", digest, type,
--       publisher
-- Returns 1; also where this very call has been done before. 0 where the tail is another.
local function restore(keys, args)
  local events, state = keys[1], keys[5]
  local tail = tail_of(events)
  if tail ~= args[1] then return tail == args[#args - 7] and 1 or 0 end
  local names, seen = {}, {}
  for i = 6, #args, 8 do
    if args[i] ~= '' and not seen[args[i]] then
      seen[args[i]] = true
      names[#names + 1] = args[i]
    end
  end
  local mark = {}
  for name, value in pairs(lookup(state, names)) do
    mark[name] = string.match(value, '^%d+ %S+ (.)')
  end
  local latest, tallied, minute, first = {}, tally(), nil, nil
  for i = 4, #args, 8 do
    local id, body, name, tombstone = args[i], args[i + 1], args[i + 2], args[i + 4] == 'T'
    local ms = split(id)
    local now_minute = math.floor(ms / 60000)
    if minute ~= now_minute then
      if minute then count(events, keys[2], keys[3], keys[4], tallied, first) end
      tallied, minute, first = tally(), now_minute, id
    end
    if args[3] == 'A' then
      redis.call('XADD', events, 'MAXLEN', '=', 0, id, 'e', '')
    else
      redis.call('XADD', events, id, 'e', body)
    end
    counted(tallied, #body, name, args[i + 6], args[i + 7])
    if name ~= '' then
      if (mark[name] == 'D') ~= tombstone then
        tallied.deleted = tallied.deleted + (tombstone and 1 or -1)
      end
      mark[name] = tombstone and 'D' or 'L'
      latest[name] = args[i + 3] .. ' ' .. id .. ' ' .. mark[name] .. args[i + 5]
    end
  end
  count(events, keys[2], keys[3], keys[4], tallied, first)
  local values = {}
  for name, value in pairs(latest) do
    values[#values + 1] = name
    values[#values + 1] = value
  end
  chunked('HSET', state, values)
  if args[2] ~= '' then redis.call('SET', keys[6], args[2]) end
  return 1
end

-- Lets a staged project take the place of one that is empty.
--
-- KEYS  events of the project, events of the staged one, audit of the project
-- ARGV  an action for the audit, retention of audit records in ms, then the kinds of keys
-- Returns 1, or 0 if the project is not empty.
local function commit_import(keys, args)
  if tail_of(keys[1]) ~= '0-0' then return 0 end
  local target, staged = string.match(keys[1], '^(.*:)events$'), string.match(keys[2], '^(.*:)events$')
  local kinds = {}
  for i = 3, #args do kinds[#kinds + 1] = args[i] end
  for _, hour in ipairs(redis.call('SMEMBERS', staged .. 'activity-open')) do
    kinds[#kinds + 1] = 'activity:' .. hour
  end
  for _, kind in ipairs(kinds) do
    if redis.call('EXISTS', staged .. kind) == 1 then
      redis.call('RENAME', staged .. kind, target .. kind)
    end
  end
  local bucket, name = string.match(target, '^(ctx:{%d+}):p:(.*):$')
  redis.call('SREM', bucket .. ':projects', string.match(staged, '^ctx:{%d+}:p:(.*):$'))
  redis.call('SADD', bucket .. ':projects', name)
  redis.call('DEL', staged .. 'import')
  record(keys[3], now(), tonumber(args[2]), 'x', args[1])
  return 1
end

-- Makes the state, and what is counted of it, what it should be.
--
-- KEYS  events, state, stats
-- ARGV  the tail as it must be, the counter of deleted keys or "", then data keys, and their
--       values or "" for none
-- Returns 1, or 0 if the tail is another.
local function repair_state(keys, args)
  if tail_of(keys[1]) ~= args[1] then return 0 end
  if args[2] ~= '' then redis.call('HSET', keys[3], 'deleted', args[2]) end
  for i = 3, #args, 2 do
    if args[i + 1] == '' then
      redis.call('HDEL', keys[2], args[i])
    else
      redis.call('HSET', keys[2], args[i], args[i + 1])
    end
  end
  return 1
end

-- Removes what was staged.
--
-- KEYS  events of the staged project
-- ARGV  the kinds of keys
local function drop_import(keys, args)
  local staged = string.match(keys[1], '^(.*:)events$')
  for _, hour in ipairs(redis.call('SMEMBERS', staged .. 'activity-open')) do
    redis.call('UNLINK', staged .. 'activity:' .. hour)
  end
  for _, kind in ipairs(args) do redis.call('UNLINK', staged .. kind) end
  local bucket, name = string.match(staged, '^(ctx:{%d+}):p:(.*):$')
  redis.call('SREM', bucket .. ':projects', name)
  return 1
end

redis.register_function('contex1_restore', restore)
redis.register_function('contex1_commit_import', commit_import)
redis.register_function('contex1_repair_state', repair_state)
redis.register_function('contex1_drop_import', drop_import)
