-- Imports. Events are restored as they were, into a project that nobody sees yet, whose name
-- is that of the project to be and "~" and more, or behind the end of one that is there.

-- Appends events with the sequences that they had. What follows from them for the state and
-- the counts is made out by who calls: it costs the store more than the events do.
--
-- KEYS  events, stats, activity, activity-open, state, import
-- ARGV  the tail as it must be, what to keep in <import> ("" = nothing), the sequences of the
--       first and the last event, how many they are, the bytes of their bodies,
--       the number of events that follow, none if the archive has them and they are only
--       counted here, then for each: sequence, body,
--       the number of data keys, then for each: key, value in <state>, until when it is valid in
--       unix ms, or "",
--       then for each minute: a time in it in unix ms, the number of counts, then for each:
--       dimension and name, count
-- Returns 1; also where this very call has been done before. 0 where the tail is another.
local function restore_all(keys, args, each)
  local events, state = keys[1], keys[5]
  local before = stream_info(events)
  local tail = before['last-generated-id'] or '0-0'
  local first, last, events_all = args[3], args[4], tonumber(args[5])
  if tail ~= args[1] then return tail == last and 1 or 0 end
  local at, upto = 8, 7 + 2 * tonumber(args[7])
  for i = at, upto, 2 do redis.call('XADD', events, args[i], 'e', args[i + 1]) end
  local largest = 0
  for i = at, upto, 2 do largest = math.max(largest, #args[i + 1]) end
  if upto < at then
    redis.call('XADD', events, 'MAXLEN', '=', 0, last, 'e', '')
    local added = (before['entries-added'] or 0) + events_all
    redis.call('XSETID', events, last, 'ENTRIESADDED', whole(added), 'MAXDELETEDID', last)
  end

  at, upto = upto + 2, upto + 1 + each * tonumber(args[upto + 1])
  local names, values, now_valid = {}, {}, {}
  for i = at, upto, each do
    names[#names + 1] = args[i]
    values[#values + 1], values[#values + 2] = args[i], args[i + 1]
    if each == 3 and args[i + 2] ~= '' then
      local _, sequence = string.match(args[i + 1], STATE)
      now_valid[#now_valid + 1] = args[i + 2]
      now_valid[#now_valid + 1] = sequence .. ' ' .. args[i]
    end
  end
  local held, was = lookup(state, names), {}
  local tallied = tally()
  tallied.events, tallied.bytes, tallied.largest = events_all, tonumber(args[6]), largest
  for i = 1, #values, 2 do
    local _, before, mark = string.match(held[values[i]] or '', STATE)
    if before then was[#was + 1] = before .. ' ' .. values[i] end
    local _, _, is = string.match(values[i + 1], STATE)
    if (mark == 'D') ~= (is == 'D') then
      tallied.deleted = tallied.deleted + (is == 'D' and 1 or -1)
    end
  end
  chunked('HSET', state, values)
  put_validity((string.gsub(events, 'events$', 'expiring')), was, now_valid)
  count_project(events, keys[2], tallied, first)

  at = upto + 1
  while at <= #args do
    upto = at + 1 + 2 * tonumber(args[at + 1])
    local counts = {}
    for i = at + 2, upto, 2 do counts[args[i]] = tonumber(args[i + 1]) end
    count_minute(keys[3], keys[4], tonumber(args[at]), counts)
    at = upto + 1
  end
  if args[2] ~= '' then redis.call('SET', keys[6], args[2]) end
  return 1
end

local function restore_expiring(keys, args)
  return restore_all(keys, args, 3)
end

-- The same as servers call it that know of no validity.
local function restore(keys, args)
  return restore_all(keys, args, 2)
end

-- Moves what was decided in a staged project to the one that has the same log by now, and of whose
-- agents nothing was decided.
local function move_decisions(staged, target)
  for _, kind in ipairs(decided_kinds(staged)) do
    if redis.call('EXISTS', staged .. kind) == 1 then
      redis.call('RENAME', staged .. kind, target .. kind)
    end
  end
  local with_agents, name = with_agents_key(target)
  redis.call('SADD', with_agents, name)
end

-- The same as a step of its own, for a project that an import has added events to.
--
-- KEYS  deciding of the project, deciding of the staged one, agents of the project
-- Returns 1, or 0 if nothing is staged, or the project decides for agents of its own.
local function adopt_decisions(keys)
  if redis.call('EXISTS', keys[2]) == 0 then return 0 end
  if redis.call('EXISTS', keys[1]) == 1 or redis.call('HLEN', keys[3]) > 0 then return 0 end
  move_decisions(string.match(keys[2], '^(.*:)deciding$'), string.match(keys[1], '^(.*:)deciding$'))
  return 1
end

-- Removes what was decided in a staged project.
--
-- KEYS  decided
local function drop_decisions(keys)
  local staged = string.match(keys[1], '^(.*:)decided$')
  for _, kind in ipairs(decided_kinds(staged)) do redis.call('UNLINK', staged .. kind) end
  return 1
end

-- Lets a staged project take the place of one that is empty.
--
-- KEYS  events of the project, events of the staged one, audit of the project
-- ARGV  an action for the audit, retention of audit records in ms, then the kinds of keys
-- Returns 1, or 0 if the project is not empty.
local function commit_import(keys, args)
  local tail = tail_of(keys[1])
  if tail ~= '0-0' and tail ~= deleted_upto(keys[1], 'events') then return 0 end
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
  if redis.call('EXISTS', staged .. 'deciding') == 1 then move_decisions(staged, target) end
  local bucket, name = string.match(target, '^(ctx:{%d+}):p:(.*):$')
  redis.call('SREM', bucket .. ':projects', string.match(staged, '^ctx:{%d+}:p:(.*):$'))
  redis.call('SADD', bucket .. ':projects', name)
  redis.call('DEL', staged .. 'import')
  schedule(target .. 'expiring')
  renew_leases(target)
  -- The project has the sequences that it is imported with, also those before its deletion.
  redis.call('HDEL', target .. 'deletions', 'last')
  record(keys[3], now(), tonumber(args[2]), 'x', args[1])
  announce(keys[1], name .. ' 0 0 0 0')
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
  for _, kind in ipairs(decided_kinds(staged)) do redis.call('UNLINK', staged .. kind) end
  for _, kind in ipairs(args) do redis.call('UNLINK', staged .. kind) end
  local bucket, name = string.match(staged, '^(ctx:{%d+}):p:(.*):$')
  redis.call('SREM', bucket .. ':projects', name)
  return 1
end

redis.register_function('contex1_restore', restore)
redis.register_function('contex2_restore', restore_expiring)
redis.register_function('contex1_commit_import', commit_import)
redis.register_function('contex1_adopt_decisions', adopt_decisions)
redis.register_function('contex1_drop_decisions', drop_decisions)
redis.register_function('contex1_drop_import', drop_import)
