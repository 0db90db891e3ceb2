#!lua name=contex1

-- The write side of the log. Every function is atomic: it checks first, then
-- writes, so a refused append leaves nothing behind (but the vectors of its texts,
-- which are true of the texts whoever publishes them). The store refuses to start
-- a function when its memory limit is reached, so none stops half-way.
--
-- An event lies in the stream as one field "e": the serialised contex.v1.Event as
-- the server sent it, followed by the fields that are only known here. Protobuf
-- allows fields in any order, so appending bytes is enough.
local TAG_REVISION = '\72' -- field 9, varint: 9 * 8
local TAG_PREVIOUS_SEQUENCE = '\82' -- field 10, bytes: 10 * 8 + 2
local TAG_TEXT_DIGEST = '\90' -- field 11, bytes: 11 * 8 + 2

-- Values of the state hash: "<revision> <sequence> <L|D><digest>": (L)ive or (D)eleted.
local STATE = '^(%d+) (%S+) (.)(.*)$'

-- Multi-value commands go out in chunks: Lua's unpack is bounded by its C stack.
local CHUNK = 1000

local function varint(n)
  local out = ''
  while n >= 128 do
    out = out .. string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  return out .. string.char(n)
end

local function chunked(command, key, values)
  for from = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, from, math.min(from + CHUNK - 1, #values)))
  end
end

local function lookup(key, fields)
  local found = {}
  for from = 1, #fields, CHUNK do
    local upto = math.min(from + CHUNK - 1, #fields)
    local values = redis.call('HMGET', key, unpack(fields, from, upto))
    for i = 1, #values do
      if values[i] then found[fields[from + i - 1]] = values[i] end
    end
  end
  return found
end

local function add(events, body)
  return redis.call('XADD', events, '*', 'e', body)
end

local function put_vectors(key, args, from, count)
  for i = from, from + 2 * count - 1, 2 do
    redis.call('HSETNX', key, args[i], args[i + 1])
  end
  return from + 2 * count
end

-- Appends the events of many publishes, each publish whole or not at all.
--
-- KEYS  events, state, vectors, requests:0, requests:1, matching
-- ARGV  request window in seconds, the vectors' model,
--       number of vectors, then for each: digest, vector,
--       then for each publish: request_id or "", number of events, and for each event:
--       data key or "", expected revision or "", "T" (tombstone) or "", digest, body
-- Returns for each publish one string:
--       "<first sequence> <revision> …"   appended; the sequences are consecutive
--       "=<first sequence> <revision> …"  the request was answered before, like this
--       "!<index of the event> <actual revision>"  a revision was not the expected one
local function append(keys, args)
  local events, state = keys[1], keys[2]
  local window = tonumber(args[1])
  local vectors = tonumber(args[3])
  local first = put_vectors(keys[3], args, 4, vectors)
  if vectors > 0 then redis.call('HSETNX', keys[6], 'model', args[2]) end

  -- Request ids lie in one of two hashes, by turns of a window; each expires when
  -- its turn comes again, so an id is known for one window at least and two at most.
  local now = tonumber(redis.call('TIME')[1])
  local turn = math.floor(now / window)
  local current, before = keys[4 + turn % 2], keys[5 - turn % 2]

  local ids, names, seen = {}, {}, {}
  local at = first
  while at <= #args do
    if args[at] ~= '' then ids[#ids + 1] = args[at] end
    local count = tonumber(args[at + 1])
    for i = at + 2, at + 1 + 5 * count, 5 do
      local name = args[i]
      if name ~= '' and not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
    at = at + 2 + 5 * count
  end

  local answered = lookup(before, ids)
  for id, answer in pairs(lookup(current, ids)) do answered[id] = answer end
  local revision, sequence, mark, digest = {}, {}, {}, {}
  for name, value in pairs(lookup(state, names)) do
    local r, s, m, d = string.match(value, STATE)
    revision[name], sequence[name], mark[name], digest[name] = tonumber(r), s, m, d
  end

  local replies, requests, touched = {}, {}, {}
  at = first
  while at <= #args do
    local id, count = args[at], tonumber(args[at + 1])
    local from, upto = at + 2, at + 1 + 5 * count
    at = upto + 1
    local reply
    if id ~= '' and answered[id] then
      reply = '=' .. answered[id]
    else
      local ahead = {}
      for i = from, upto, 5 do
        local name = args[i]
        if name ~= '' then
          local actual = (revision[name] or 0) + (ahead[name] or 0)
          if args[i + 1] ~= '' and tonumber(args[i + 1]) ~= actual then
            reply = '!' .. (i - from) / 5 .. ' ' .. string.format('%.0f', actual)
            break
          end
          ahead[name] = (ahead[name] or 0) + 1
        end
      end
    end
    if not reply then
      local parts = {}
      for i = from, upto, 5 do
        local name, tombstone, text, body = args[i], args[i + 2] == 'T', args[i + 3], args[i + 4]
        local count_now = 0
        if name ~= '' then
          count_now = (revision[name] or 0) + 1
          if tombstone then text = digest[name] or '' end
          body = body .. TAG_REVISION .. varint(count_now)
          if sequence[name] then
            body = body .. TAG_PREVIOUS_SEQUENCE .. varint(#sequence[name]) .. sequence[name]
          end
        end
        if text ~= '' then body = body .. TAG_TEXT_DIGEST .. varint(#text) .. text end
        local placed = add(events, body)
        if not parts[1] then parts[1] = placed end
        parts[#parts + 1] = string.format('%.0f', count_now)
        if name ~= '' then
          revision[name], sequence[name], digest[name] = count_now, placed, text
          mark[name] = tombstone and 'D' or 'L'
          touched[name] = true
        end
      end
      reply = table.concat(parts, ' ')
      if id ~= '' then
        answered[id] = reply
        requests[#requests + 1] = id
        requests[#requests + 1] = reply
      end
    end
    replies[#replies + 1] = reply
  end

  local values = {}
  for name in pairs(touched) do
    values[#values + 1] = name
    values[#values + 1] = string.format('%.0f', revision[name]) .. ' ' .. sequence[name] .. ' ' .. mark[name] .. digest[name]
  end
  chunked('HSET', state, values)
  if #requests > 0 then
    local fresh = redis.call('EXISTS', current) == 0
    chunked('HSET', current, requests)
    -- One millisecond early: at the turn itself the hash must be gone already.
    if fresh then redis.call('PEXPIREAT', current, (turn + 2) * window * 1000 - 1) end
  end
  return replies
end

-- Writes, replaces or removes a registration, and its event, if it is still as expected.
--
-- KEYS  events, agents, cursors
-- ARGV  agent id, expected record ("" = absent), new record ("" = remove),
--       cursor ("" = keep, or the new event's sequence for a new agent), event body
-- Returns {sequence, cursor}, or nil if the record was not the expected one.
local function agent(keys, args)
  local events, agents, cursors = keys[1], keys[2], keys[3]
  local id, expected, record, cursor = args[1], args[2], args[3], args[4]
  if (redis.call('HGET', agents, id) or '') ~= expected then return nil end
  local sequence = add(events, args[5])
  if record == '' then
    redis.call('HDEL', agents, id)
    redis.call('HDEL', cursors, id)
    return { sequence, '' }
  end
  redis.call('HSET', agents, id, record)
  if cursor ~= '' then
    redis.call('HSET', cursors, id, cursor)
  elseif redis.call('HSETNX', cursors, id, sequence) == 1 then
    cursor = sequence
  else
    cursor = redis.call('HGET', cursors, id)
  end
  return { sequence, cursor }
end

local function split(sequence)
  local ms, n = string.match(sequence, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end

-- Moves an agent's cursor forward.
--
-- KEYS  agents, cursors
-- ARGV  agent id, sequence
-- Returns where the cursor stands, or nil if there is no such agent.
local function acknowledge(keys, args)
  local id, wanted = args[1], args[2]
  if redis.call('HEXISTS', keys[1], id) == 0 then return nil end
  local held = redis.call('HGET', keys[2], id) or '0-0'
  local held_ms, held_n = split(held)
  local ms, n = split(wanted)
  if ms > held_ms or (ms == held_ms and n > held_n) then
    redis.call('HSET', keys[2], id, wanted)
    return wanted
  end
  return held
end

-- Lets another embedding model decide in a project, and tells it in the log.
--
-- KEYS  events, matching, vectors of the old model
-- ARGV  old model, new model, event body
-- Returns the event's sequence, or nil if the old model did not decide any more.
local function change_model(keys, args)
  if (redis.call('HGET', keys[2], 'model') or '') ~= args[1] then return nil end
  redis.call('HSET', keys[2], 'model', args[2])
  redis.call('UNLINK', keys[3])
  return add(keys[1], args[3])
end

-- Takes, keeps or, with a time of 0, gives back a task that one process does.
--
-- KEYS  task
-- ARGV  owner, for how many milliseconds
-- Returns 1 if the task is the owner's now.
local function claim(keys, args)
  local holder = redis.call('GET', keys[1])
  if holder and holder ~= args[1] then return 0 end
  if tonumber(args[2]) > 0 then
    redis.call('SET', keys[1], args[1], 'PX', args[2])
    return 1
  end
  redis.call('DEL', keys[1])
  return 0
end

redis.register_function('contex1_append', append)
redis.register_function('contex1_change_model', change_model)
redis.register_function('contex1_claim', claim)
redis.register_function('contex1_agent', agent)
redis.register_function('contex1_acknowledge', acknowledge)
