-- An agent's journal: a stream of what happened between the service and the agent. What the
-- agent knew at a moment is the fold of its journal up to it, from the nearest checkpoint on.
--
-- Entries, by the name of their first field:
--   r  "<event> <L|U>\t<origin>", record   it was registered (L) or unregistered (U)
--   o  "<stream id> <position>\t<origin>"  a stream was opened
--   c  "<stream id>"                       a stream ended
--   d  what was sent: first line "<stream id or -> <kind> <registration> <position>", then
--      for each event "<S|R> <event> <revision> <L|D> <needs> <data key>": (S)ent or (R)esent
--   a  "<position> <cursor>\t<origin>"     it acknowledged; where its cursor stands now
--   k  everything up to here, written down: what is known, record, cursor, streams
--
-- Beside it: "sent", a hash of what was sent last of each data key ("<event> <revision>
-- <L|D> <ms> <registration> <needs>"), of the needs of the registrations that this refers to
-- (under NEEDS and the registration, a JSON list), and in COUNTER of the entries since the
-- checkpoint; and "streams", a hash of open and recent streams ("<opened ms> <closed ms or
-- 0> <position>\t<origin>", and under "<stream id>#" the number of its last message).
--
-- A key that all these functions take: journal, sent, streams, journals (a set of the agents
-- that have one), agents, cursors.
local COUNTER, NEEDS = '\1', '\2'
local CHECKPOINT_ENTRIES = 256
local STREAMS_KEPT = 10

local function agent_keys(keys, from)
  return {
    journal = keys[from], sent = keys[from + 1], streams = keys[from + 2],
    journals = keys[from + 3], agents = keys[from + 4], cursors = keys[from + 5],
  }
end

local function sent_lines(a)
  local held, lines, used = redis.call('HGETALL', a.sent), {}, {}
  for i = 1, #held, 2 do
    if string.byte(held[i]) > 32 then
      used[string.match(held[i + 1], '^%S+ %S+ %S+ %S+ (%S+)')] = true
      lines[#lines + 1] = held[i] .. ' ' .. held[i + 1]
    end
  end
  for i = 1, #held, 2 do
    if string.sub(held[i], 1, 1) == NEEDS then
      if used[string.sub(held[i], 2)] then
        lines[#lines + 1] = held[i] .. ' ' .. held[i + 1]
      else
        redis.call('HDEL', a.sent, held[i])
      end
    end
  end
  return table.concat(lines, '\n')
end

local function stream_lines(a)
  local held, lines = redis.call('HGETALL', a.streams), {}
  for i = 1, #held, 2 do
    if string.sub(held[i], -1) ~= '#' then lines[#lines + 1] = held[i] .. ' ' .. held[i + 1] end
  end
  return table.concat(lines, '\n')
end

local function checkpoint(a, id)
  redis.call('XADD', a.journal, '*',
    'k', sent_lines(a),
    'record', redis.call('HGET', a.agents, id) or '',
    'cursor', redis.call('HGET', a.cursors, id) or '',
    'streams', stream_lines(a))
  redis.call('HSET', a.sent, COUNTER, 0)
end

-- Adds an entry, and from time to time a checkpoint in front of it. Call it before anything
-- is written to `sent`.
local function note(a, id, limits, ...)
  local since = redis.call('HINCRBY', a.sent, COUNTER, 1)
  if since > CHECKPOINT_ENTRIES and since > redis.call('HLEN', a.sent) then
    checkpoint(a, id)
    if limits.retention_ms > 0 then
      redis.call('XTRIM', a.journal, 'MINID', '~', whole(now() * 1000 - limits.retention_ms))
    end
    redis.call('XTRIM', a.journal, 'MAXLEN', '~', limits.entries)
  end
  return redis.call('XADD', a.journal, '*', ...)
end

-- A journal begins with a checkpoint: also that of an agent which is older than it.
local function began(a, id)
  if redis.call('EXISTS', a.journal) == 0 then
    redis.call('SADD', a.journals, id)
    checkpoint(a, id)
  end
end

-- Notes what is about to be sent to an agent, in one message.
--
-- KEYS  journal … cursors, activity, then for each event where its receivers are noted
-- ARGV  agent id, retention in ms, entries kept,
--       stream id or "", number of the message in its stream,
--       kind, registration, position,
--       the needs as a JSON list, their number, then each,
--       then for each event: sequence, data key, revision, "L" or "D", "<need index>:<score>,…"
-- Returns 1, or 0 if this message was noted before.
local function deliver(keys, args)
  local a, id = agent_keys(keys, 1), args[1]
  local limits = { retention_ms = tonumber(args[2]), entries = tonumber(args[3]) }
  local stream, number = args[4], tonumber(args[5])
  began(a, id)
  if stream ~= '' then
    local last = redis.call('HGET', a.streams, stream .. '#')
    if last and tonumber(last) >= number then return 0 end
    redis.call('HSET', a.streams, stream .. '#', number)
  end
  local registration = args[7]
  local first = 11 + tonumber(args[10])

  local lines = { (stream ~= '' and stream or '-') .. ' ' .. args[6] .. ' ' .. registration .. ' ' .. args[8] }
  local before, wanted, by_need = {}, {}, {}
  local event = 0
  for i = first, #args, 5 do
    event = event + 1
    before[event] = redis.call('HGET', keys[7 + event], id)
    lines[#lines + 1] = (before[event] and 'R ' or 'S ') .. args[i] .. ' ' .. args[i + 2] .. ' '
      .. args[i + 3] .. ' ' .. args[i + 4] .. ' ' .. args[i + 1]
    if args[i + 1] ~= '' then wanted[#wanted + 1] = args[i + 1] end
    if not before[event] then
      for index in string.gmatch(args[i + 4], '(%d+):') do
        local name = id .. ': ' .. args[11 + tonumber(index)]
        by_need[name] = (by_need[name] or 0) + 1
      end
    end
  end

  -- The events that one message brings of a key are in order: the last one counts.
  local held = lookup(a.sent, wanted)
  local placed = note(a, id, limits, 'd', table.concat(lines, '\n'))
  local ms = split(placed)
  local fresh, values = {}, {}
  event = 0
  for i = first, #args, 5 do
    event = event + 1
    local name, revision = args[i + 1], tonumber(args[i + 2])
    if name ~= '' then
      local known = fresh[name] or held[name]
      if not known or tonumber(string.match(known, '^%S+ (%d+)')) < revision then
        fresh[name] = args[i] .. ' ' .. args[i + 2] .. ' ' .. args[i + 3] .. ' ' .. whole(ms) .. ' '
          .. registration .. ' ' .. args[i + 4]
      end
    end
    local sends = before[event]
    if sends and #sends > 400 then sends = string.match(sends, '^%S+') end
    redis.call('HSET', keys[7 + event], id, sends and sends .. ' ' .. placed or placed)
    if limits.retention_ms > 0 then redis.call('PEXPIRE', keys[7 + event], limits.retention_ms) end
  end
  for name, value in pairs(fresh) do
    values[#values + 1] = name
    values[#values + 1] = value
  end
  chunked('HSET', a.sent, values)
  redis.call('HSETNX', a.sent, NEEDS .. registration, args[9])
  count_by(keys[7], 'n', ms, by_need)
  return 1
end

-- Notes that a stream of an agent was opened or has ended.
--
-- KEYS  journal … cursors
-- ARGV  agent id, retention in ms, entries kept, stream id, "o" or "c", position, origin
local function stream(keys, args)
  local a, id, name = agent_keys(keys, 1), args[1], args[4]
  local limits = { retention_ms = tonumber(args[2]), entries = tonumber(args[3]) }
  began(a, id)
  if args[5] == 'c' then
    local held = redis.call('HGET', a.streams, name)
    local placed = note(a, id, limits, 'c', name)
    if held then
      redis.call('HSET', a.streams, name, (string.gsub(held, '^(%d+) 0 ', '%1 ' .. whole(split(placed)) .. ' ')))
    end
    redis.call('HDEL', a.streams, name .. '#')
    return 1
  end
  local said = args[6] .. '\t' .. args[7]
  local placed = note(a, id, limits, 'o', name .. ' ' .. said)
  redis.call('HSET', a.streams, name, whole(split(placed)) .. ' 0 ' .. said)
  -- The oldest goes, closed or not: what it says of them is in the journal.
  local held, known = redis.call('HGETALL', a.streams), {}
  for i = 1, #held, 2 do
    if not string.find(held[i], '#$') then
      known[#known + 1] = { held[i], tonumber(string.match(held[i + 1], '^(%d+)')) }
    end
  end
  if #known > STREAMS_KEPT then
    table.sort(known, function(x, y) return x[2] < y[2] end)
    for i = 1, #known - STREAMS_KEPT do redis.call('HDEL', a.streams, known[i][1]) end
  end
  return 1
end

redis.register_function('contex1_deliver', deliver)
redis.register_function('contex1_stream', stream)
