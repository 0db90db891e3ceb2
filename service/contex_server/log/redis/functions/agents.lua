-- An agent's journal: a stream of what happened between the service and the agent. What the
-- agent knew at a moment is the fold of its journal up to it, from the nearest checkpoint on.
--
-- Entries, by the name of their first field:
--   r  "<event> <L|U>\t<origin>", record   it was registered (L) or unregistered (U)
--   o  "<stream id> <position>\t<origin>"  a stream was opened
--   c  "<stream id>"                       a stream ended
--   d  what was sent: first line "<stream id or -> <number of the message in its stream>
--      <kind> <registration> <position>", then
--      for each event "<S|R> <event> <revision> <L|D> <needs> <data key>": (S)ent or (R)esent
--   a  "<position> <cursor>\t<origin>"     it acknowledged; where its cursor stands now
--   s  "<stream id> <after> <up to> <highest before>": the inbox was sent between these ids, of which
--      what comes up to the last was sent before
--   k  everything up to here, written down: what is known, record, cursor, streams
--
-- Beside it: "sent", a hash of what was sent last of each data key ("<event> <revision>
-- <L|D> <ms> <registration> <needs>"), of the needs of the registrations that this refers to
-- (under NEEDS and the registration, a JSON list), and in COUNTER of the entries since the
-- checkpoint; and "streams", a hash of open and recent streams ("<opened ms> <closed ms or
-- 0> <position>\t<origin>").
--
-- A key that all these functions take: journal, sent, streams, journals (a set of the agents
-- that have one), agents, cursors.
local COUNTER, NEEDS, HIGHEST = '\1', '\2', '\3'
local CHECKPOINT_ENTRIES = 256
local STREAMS_KEPT = 10

-- When agents were last in contact, and when they expire:
--   contacts  hash: agent -> unix ms of the last contact
--   ttls      hash: agent -> how long it may go without one, in ms; of agents that expire
--   leases    sorted set: the same agents, by when it is to be looked whether they have expired. A
--             contact does not touch it: who looks too early puts the agent off
-- and `ctx:{b}:leases`, a sorted set: the projects of a bucket that have such, by the first time.

-- Open streams are renewed so often at least. A ttl that is shorter than the one before holds from
-- then on: until then, who keeps the streams may not know of it.
local RENEWED_MS = 5000
-- After servers or the store were away, agents have so long to come back, or their ttl if that is less.
local RETURN_MS = 30000

local function contacted(own, id)
  local ms = now_ms()
  redis.call('HSET', own .. 'contacts', id, whole(ms))
  return ms
end

local function put_lease(own, id, ttl_ms, due_ms)
  redis.call('HSET', own .. 'ttls', id, whole(ttl_ms))
  redis.call('ZADD', own .. 'leases', whole(due_ms), id)
end

local function drop_lease(own, id)
  if redis.call('HDEL', own .. 'ttls', id) == 1 then
    redis.call('ZREM', own .. 'leases', id)
    schedule(own .. 'leases', 'leases')
  end
end

-- Lets the ttls of all agents begin anew, as those of a project that was imported.
local function renew_leases(own)
  local ttls, ms = redis.call('HGETALL', own .. 'ttls'), now_ms()
  local leases = {}
  for i = 1, #ttls, 2 do
    leases[i], leases[i + 1] = whole(ms + tonumber(ttls[i + 1])), ttls[i]
  end
  chunked('ZADD', own .. 'leases', leases)
  schedule(own .. 'leases', 'leases')
end

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
  for i = 1, #held, 2 do lines[#lines + 1] = held[i] .. ' ' .. held[i + 1] end
  return table.concat(lines, '\n')
end

local function checkpoint(a, id)
  redis.call('XADD', a.journal, '*',
    'k', sent_lines(a),
    'record', redis.call('HGET', a.agents, id) or '',
    'cursor', redis.call('HGET', a.cursors, id) or '',
    'streams', stream_lines(a),
    'sent', redis.call('HGET', a.sent, HIGHEST) or '')
  redis.call('HSET', a.sent, COUNTER, 0)
end

-- What comes before an entry: a checkpoint, where the journal begins (also that of an agent
-- which is older than its journal), and from time to time. `since` are the entries since the
-- last one. Returns how many they are now, with the entry.
local function prepare(a, id, limits, since)
  if since == 0 and redis.call('EXISTS', a.journal) == 0 then
    redis.call('SADD', a.journals, id)
    checkpoint(a, id)
  elseif since >= CHECKPOINT_ENTRIES and since >= redis.call('HLEN', a.sent) then
    checkpoint(a, id)
    if limits.retention_ms > 0 then
      redis.call('XTRIM', a.journal, 'MINID', '~', whole(now() * 1000 - limits.retention_ms))
    end
    redis.call('XTRIM', a.journal, 'MAXLEN', '~', limits.entries)
    since = 0
  end
  return since + 1
end

-- Prepares for an entry, before anything is changed that a checkpoint holds.
local function begin(a, id, limits)
  local since = prepare(a, id, limits, tonumber(redis.call('HGET', a.sent, COUNTER) or 0))
  redis.call('HSET', a.sent, COUNTER, since)
end

-- Whether a note of a kind that begins so is in the journal already.
local function is_noted(a, kind, start)
  for _, row in ipairs(redis.call('XREVRANGE', a.journal, '+', '-', 'COUNT', 100)) do
    if row[2][1] == kind and string.sub(row[2][2], 1, #start) == start then return true end
  end
  return false
end

-- Whether an event was sent to an agent before; `added` is what this call adds.
local function was_sent(key, added, id)
  local start = '\n' .. id .. ' '
  if added and string.find(added, start, 1, true) then return true end
  local held = redis.call('GET', key)
  return held and string.find(held, start, 1, true) ~= nil
end

-- Notes one message. What it adds to the receivers of its events goes into `added`, the needs
-- that it meets into `needs_counted`. Returns its place.
local function note_message(a, message, limits, keys, added, needs_counted)
  local id, prefix = message.agent, NEEDS .. message.registration
  local wanted = { COUNTER, prefix }
  for _, event in ipairs(message.events) do
    if event.name ~= '' then wanted[#wanted + 1] = event.name end
  end
  local held = lookup(a.sent, wanted)
  local since = prepare(a, id, limits, tonumber(held[COUNTER] or 0))

  local lines = {
    message.stream .. ' ' .. message.number .. ' ' .. message.kind .. ' ' .. message.registration
      .. ' ' .. message.position,
  }
  local fresh, resent = {}, false
  for i, event in ipairs(message.events) do
    local name = event.name
    local known = fresh[name] and fresh[name].said or held[name]
    local is_new = name ~= ''
      and (not known or tonumber(string.match(known, '^%S+ (%d+)')) < event.revision)
    if is_new then fresh[name] = event end
    -- A revision above all that were sent of its key was never sent.
    event.resend = not is_new and was_sent(keys[5 + event.at], added[event.at], id)
    resent = resent or event.resend
    lines[i + 1] = (event.resend and 'R ' or 'S ') .. event.said .. ' ' .. event.needs .. ' ' .. name
  end
  local placed = redis.call('XADD', a.journal, '*', 'd', table.concat(lines, '\n'))

  local line = id .. ' ' .. placed .. '\n'
  local values = { COUNTER, whole(since) }
  for _, event in ipairs(message.events) do
    added[event.at] = (added[event.at] or '\n') .. line
  end
  if not held[prefix] then
    values[3], values[4] = prefix, message.needs
  end
  local suffix = ' ' .. whole(split(placed)) .. ' ' .. message.registration .. ' '
  for name, event in pairs(fresh) do
    values[#values + 1] = name
    values[#values + 1] = event.said .. suffix .. event.needs
  end
  chunked('HSET', a.sent, values)

  for i, need in ipairs(message.texts) do
    local n = need.count
    if resent then
      n = 0
      for _, event in ipairs(message.events) do
        if not event.resend and string.find(',' .. event.needs, ',' .. i - 1 .. ':', 1, true) then
          n = n + 1
        end
      end
    end
    if n > 0 then
      local name = 'n' .. id .. ': ' .. need.text
      needs_counted[name] = (needs_counted[name] or 0) + n
    end
  end
  return placed
end

-- Notes what is about to be sent to agents.
--
-- KEYS  activity, activity-open, journals, agents, cursors, for each event where its receivers
--       are, then for each message: journal, sent, streams
-- ARGV  retention in ms, entries kept, "R" where the call is repeated, number of events, then
--       for each message: agent id, stream id or "-", its number in the stream, kind,
--       registration, position, the needs as a JSON list, their number, then each with how
--       many events meet it, number of events, and for each: which of the events, revision,
--       "<sequence> <revision> <L|D>", "<need index>:<score>,…", data key
local function deliver(keys, args)
  local limits = { retention_ms = tonumber(args[1]), entries = tonumber(args[2]) }
  local repeated, count_events = args[3] == 'R', tonumber(args[4])
  local at, key = 5, 5 + count_events
  local added, needs_counted, placed = {}, {}, nil
  local deleted = deleted_upto(keys[1], 'activity')
  while at <= #args do
    local message = {
      agent = args[at], stream = args[at + 1], number = args[at + 2], kind = args[at + 3],
      registration = args[at + 4], position = args[at + 5], needs = args[at + 6],
      texts = {}, events = {},
    }
    local a = {
      journal = keys[key + 1], sent = keys[key + 2], streams = keys[key + 3],
      journals = keys[3], agents = keys[4], cursors = keys[5],
    }
    key = key + 3
    local texts = tonumber(args[at + 7])
    at = at + 8
    for i = 1, texts do
      message.texts[i] = { text = args[at], count = tonumber(args[at + 1]) }
      at = at + 2
    end
    local events = tonumber(args[at])
    at = at + 1
    for i = 1, events do
      message.events[i] = {
        at = tonumber(args[at]), revision = tonumber(args[at + 1]), said = args[at + 2],
        needs = args[at + 3], name = args[at + 4],
      }
      at = at + 5
    end
    local noted = repeated and message.stream ~= '-' and is_noted(a, 'd', message.stream .. ' ' .. message.number .. ' ')
    -- What was under way as the project was deleted is no part of the one that takes its name.
    local kept = deleted == '0-0' or is_after(message.position, deleted)
    if kept and not noted then
      placed = note_message(a, message, limits, keys, added, needs_counted)
    end
  end
  if not placed then return 0 end
  local ms = split(placed)
  for i, lines in pairs(added) do
    local name = keys[5 + i]
    local size = redis.call('APPEND', name, lines)
    -- Kept from the first on; who is sent an old event lets it be kept anew.
    local event_ms = tonumber(string.match(name, '(%d+)-%d+$'))
    if limits.retention_ms > 0 and (size == #lines or event_ms < ms - 3600000) then
      redis.call('PEXPIRE', name, limits.retention_ms)
    end
  end
  count_minute(keys[1], keys[2], ms, needs_counted)
  return 1
end

-- Notes that a stream of an agent was opened or has ended.
--
-- KEYS  journal … cursors
-- ARGV  agent id, retention in ms, entries kept, stream id, "o" or "c", position, origin
local function stream(keys, args)
  local a, id, name = agent_keys(keys, 1), args[1], args[4]
  local limits = { retention_ms = tonumber(args[2]), entries = tonumber(args[3]) }
  -- The streams of a project that was deleted end after its journals.
  if redis.call('HEXISTS', a.agents, id) == 0 and redis.call('EXISTS', a.journal) == 0 then
    return 0
  end
  begin(a, id, limits)
  if args[5] == 'c' then
    local held = redis.call('HGET', a.streams, name)
    local placed = redis.call('XADD', a.journal, '*', 'c', name)
    if held then
      redis.call('HSET', a.streams, name, (string.gsub(held, '^(%d+) 0 ', '%1 ' .. whole(split(placed)) .. ' ')))
    end
    return 1
  end
  local said = args[6] .. '\t' .. args[7]
  local placed = redis.call('XADD', a.journal, '*', 'o', name .. ' ' .. said)
  redis.call('HSET', a.streams, name, whole(split(placed)) .. ' 0 ' .. said)
  -- The oldest goes, closed or not: what it says of them is in the journal.
  local held, known = redis.call('HGETALL', a.streams), {}
  for i = 1, #held, 2 do
    known[#known + 1] = { held[i], tonumber(string.match(held[i + 1], '^(%d+)')) }
  end
  if #known > STREAMS_KEPT then
    table.sort(known, function(x, y) return x[2] < y[2] end)
    for i = 1, #known - STREAMS_KEPT do redis.call('HDEL', a.streams, known[i][1]) end
  end
  return 1
end

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
  local gone, own = new == '', string.sub(keys[1], 1, -7)
  if not gone then registering(own, id, tail_of(keys[1])) end
  local sequence = add_alone(keys, args[6], args[5])
  local line = sequence .. ' ' .. (gone and 'U ' or 'L ')
  record(keys[5], now(), tonumber(args[8]), 'r', line .. id .. '\t' .. args[7])
  if gone then
    redis.call('HDEL', a.agents, id)
    redis.call('HDEL', a.cursors, id)
    redis.call('XADD', a.journal, '*', 'r', line .. '\t' .. args[7])
    redis.call('DEL', a.sent)
    redis.call('HDEL', own .. 'places', id)
    redis.call('HDEL', own .. 'contacts', id)
    redis.call('HDEL', own .. 'deciding', 'f' .. id)
    drop_group(own, id, true)
    drop_lease(own, id)
    if limits.retention_ms > 0 then
      redis.call('PEXPIRE', own .. 'inbox:' .. id, limits.retention_ms)
      redis.call('PEXPIRE', own .. 'base:' .. id, limits.retention_ms)
      redis.call('PEXPIRE', a.journal, limits.retention_ms)
      redis.call('PEXPIRE', a.streams, limits.retention_ms)
    end
    return { sequence, '' }
  end
  redis.call('HSET', a.agents, id, new)
  if expected == '' then drop_group(own, id, true) end
  if cursor ~= '' then
    drop_group(own, id, false)
    redis.call('HSET', a.cursors, id, cursor)
    local asked = redis.call('HGET', own .. 'deciding', 'f' .. id)
    if not asked or is_after(asked, cursor) then
      redis.call('HSET', own .. 'deciding', 'f' .. id, cursor)
    end
  elseif redis.call('HSETNX', a.cursors, id, sequence) == 1 then
    cursor = sequence
  else
    cursor = redis.call('HGET', a.cursors, id)
  end
  redis.call('XADD', a.journal, '*', 'r', line .. cursor .. '\t' .. args[7], 'record', new)
  redis.call('PERSIST', a.journal)
  redis.call('PERSIST', a.streams)
  contacted(own, id)
  drop_lease(own, id)
  return { sequence, cursor }
end

-- The same with a ttl. Servers that call the function above know of none, and leave the agent without.
--
-- ARGV  as above, then how long the agent may go without a contact in ms, or 0
-- Returns {sequence, cursor, unix ms of the contact}, or nil
local function agent_with_ttl(keys, args)
  local id, ttl_ms, own = args[1], tonumber(args[11]), string.sub(keys[1], 1, -7)
  local before = tonumber(redis.call('HGET', own .. 'ttls', id) or 0)
  local written = agent(keys, args)
  if not written or args[3] == '' then return written end
  local ms = tonumber(redis.call('HGET', own .. 'contacts', id))
  if ttl_ms > 0 then
    local is_new = args[2] == ''
    local shorter = not is_new and (before == 0 or ttl_ms < before)
    put_lease(own, id, ttl_ms, ms + (shorter and math.max(ttl_ms, RENEWED_MS) or ttl_ms))
    schedule(own .. 'leases', 'leases')
  end
  return { written[1], written[2], ms }
end

-- Notes that agents are in contact.
--
-- KEYS  agents, contacts, ttls
-- ARGV  the agents
-- Returns the time in unix ms, the shortest ttl of these agents in ms or 0, and those of them that are
-- not registered.
local function contact(keys, args)
  local own, shortest, gone = string.sub(keys[1], 1, -7), 0, {}
  local ms = now_ms()
  for _, id in ipairs(args) do
    if redis.call('HEXISTS', keys[1], id) == 0 then
      gone[#gone + 1] = id
    else
      contacted(own, id)
      local ttl_ms = tonumber(redis.call('HGET', keys[3], id) or 0)
      if ttl_ms > 0 and (shortest == 0 or ttl_ms < shortest) then shortest = ttl_ms end
    end
  end
  return { ms, shortest, gone }
end

-- Unregisters an agent that has expired. One that was in contact since is put off.
--
-- KEYS  as of `agent`
-- ARGV  agent id, event type, event body, origin, retention of audit records in ms, retention of the
--       journal in ms, entries kept, for how many ms it has been looked for such without interruption
-- Returns 1, or 0 if the agent has not expired.
local function expire_agent(keys, args)
  local id, own = args[1], string.sub(keys[1], 1, -7)
  local leases, ms = own .. 'leases', now_ms()
  local ttl_ms = tonumber(redis.call('HGET', own .. 'ttls', id) or 0)
  local due_ms = tonumber(redis.call('ZSCORE', leases, id) or 0)
  local held = redis.call('HGET', own .. 'agents', id)
  if not held or ttl_ms == 0 then
    redis.call('ZREM', leases, id)
    schedule(leases, 'leases')
    return 0
  end
  if due_ms > ms then return 0 end
  local last_ms = tonumber(redis.call('HGET', own .. 'contacts', id) or 0)
  if last_ms + ttl_ms > ms then
    redis.call('ZADD', leases, whole(last_ms + ttl_ms), id)
    schedule(leases, 'leases')
    return 0
  end
  if tonumber(args[8]) < math.min(ttl_ms, RETURN_MS) then return 0 end
  agent(keys, { id, held, '', '', args[2], args[3], args[4], args[5], args[6], args[7] })
  return 1
end

-- Stores registrations and cursors of agents that are not registered yet; their ttls begin now.
--
-- KEYS  agents, cursors
-- ARGV  for each: agent id, record, cursor, ttl in ms or 0
-- Returns how many were added.
local function restore_agents(keys, args)
  local own, added, ms = string.sub(keys[1], 1, -7), 0, now_ms()
  for i = 1, #args, 4 do
    local id, ttl_ms = args[i], tonumber(args[i + 3])
    if redis.call('HSETNX', keys[1], id, args[i + 1]) == 1 then
      added = added + 1
      redis.call('HSETNX', keys[2], id, args[i + 2])
      if ttl_ms > 0 then put_lease(own, id, ttl_ms, ms + ttl_ms) end
    end
  end
  schedule(own .. 'leases', 'leases')
  return added
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
  if is_after(wanted, stands) then
    stands = wanted
    redis.call('HSET', a.cursors, id, wanted)
  end
  contacted(string.sub(a.agents, 1, -7), id)
  redis.call('XADD', a.journal, '*', 'a', wanted .. ' ' .. stands .. '\t' .. args[5])
  return stands
end

-- The same inside what an event brought. Where an agent stands there is kept in the hash "places",
-- and counts as long as its cursor is at that event.
--
-- KEYS  journal … cursors, places
-- ARGV  as above, then the inbox's id, or "" where the cursor is not inside of anything
local function acknowledge_place(keys, args)
  local before = redis.call('HGET', keys[6], args[1]) or '0-0'
  local stands = acknowledge(keys, args)
  if not stands then return nil end
  if args[6] == '' then
    if is_after(stands, before) then redis.call('HDEL', keys[7], args[1]) end
  elseif stands == args[4] then
    local held = redis.call('HGET', keys[7], args[1])
    if stands ~= before or not held or is_after(args[6], held) then
      redis.call('HSET', keys[7], args[1], args[6])
    end
  end
  return stands
end

-- Notes what is about to be sent to agents out of their inboxes.
--
-- KEYS  agents, cursors, journals, then for each message: journal, sent, streams
-- ARGV  retention in ms, entries kept, "R" where the call is repeated, then for each message: agent
--       id, stream id, the ids after and up to which the inbox is sent
local function sending(keys, args)
  local limits = { retention_ms = tonumber(args[1]), entries = tonumber(args[2]) }
  local key = 3
  for at = 4, #args, 4 do
    local a = {
      journal = keys[key + 1], sent = keys[key + 2], streams = keys[key + 3],
      journals = keys[3], agents = keys[1], cursors = keys[2],
    }
    key = key + 3
    local line = table.concat({ args[at + 1], args[at + 2], args[at + 3] }, ' ') .. ' '
    -- The streams of a project that was deleted end after its journals.
    if redis.call('HEXISTS', a.agents, args[at]) == 1
        and not (args[3] == 'R' and is_noted(a, 's', line)) then
      local since, highest = unpack(redis.call('HMGET', a.sent, COUNTER, HIGHEST))
      since, highest = prepare(a, args[at], limits, tonumber(since or 0)), highest or '0-0'
      redis.call('XADD', a.journal, '*', 's', line .. highest)
      local upto = is_after(args[at + 3], highest) and args[at + 3] or highest
      redis.call('HSET', a.sent, COUNTER, since, HIGHEST, upto)
    end
  end
  return 1
end

-- The same of what is decided by who still decides for a shard.
--
-- KEYS  deciding, then as above
-- ARGV  shard, epoch, then as above
-- Returns 1, or 0 if the shard has another owner by now.
local function sending_decided(keys, args)
  if not decides(keys[1], args[1], args[2]) then return 0 end
  return sending({ unpack(keys, 2) }, { unpack(args, 3) })
end

-- The same once it is decided up to a position: the call that decides so may have been refused.
--
-- KEYS  deciding, then as above
-- ARGV  shard, epoch, position, then as above
-- Returns 1, or 0 if that is not decided, or another process has gone on since.
local function sending_decided_upto(keys, args)
  local held, start = redis.call('HGET', keys[1], 's' .. args[1]), args[2] .. ' ' .. args[3] .. ' '
  if not held or string.sub(held, 1, #start) ~= start then return 0 end
  return sending({ unpack(keys, 2) }, { unpack(args, 4) })
end

redis.register_function('contex1_agent', agent)
redis.register_function('contex2_agent', agent_with_ttl)
redis.register_function('contex1_contact', contact)
redis.register_function('contex1_expire_agent', expire_agent)
redis.register_function('contex1_restore_agents', restore_agents)
redis.register_function('contex1_acknowledge', acknowledge)
redis.register_function('contex2_acknowledge', acknowledge_place)
redis.register_function('contex1_sending', sending)
redis.register_function('contex1_sending_decided', sending_decided)
redis.register_function('contex2_sending_decided', sending_decided_upto)
redis.register_function('contex1_deliver', deliver)
redis.register_function('contex1_stream', stream)
