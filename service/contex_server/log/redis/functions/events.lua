-- Arguments before a publish's events, and of each event.
local HEAD, EACH = 5, 9
-- Of each event where nothing is said of validity.
local LASTING_EACH = 8
-- Both where nothing is said of descriptions either.
local PLAIN_HEAD, PLAIN_EACH = 4, 6

local function put_vectors(key, args, from, count)
  for i = from, from + 2 * count - 1, 2 do
    redis.call('HSETNX', key, args[i], args[i + 1])
  end
  return from + 2 * count
end

-- Whether the first event of a key in a publish takes the key for what it is: described by `was`,
-- which is nil if that is not known here, with its latest event.
local function is_right(before, after, was, latest)
  if before == '=' then return was == after end
  return was == before or (was and was == after) or before == '@' .. (latest or '')
end

-- Adds an event to a stream, after a sequence even if the stream ends before it: there, with its
-- clock behind, a store that took over without what was last appended would use it again.
-- Returns where it is; and that again if the next one must be told to come after it, too, for it to
-- be the next sequence.
local function place(events, body, after, time_ms)
  if after then
    local ms, n = split(after)
    if time_ms <= ms then
      local placed = redis.pcall('XADD', events, whole(ms) .. '-' .. whole(n + 1), 'e', body)
      if not placed.err then return placed, placed end
    end
  end
  return redis.call('XADD', events, '*', 'e', body), nil
end

-- Appends the events of many publishes, each publish whole or not at all; see `append_described`.
-- All are placed after the sequence `after`, if there is one.
local function append_all(keys, args, head, each, tells_state, after)
  local events, state = keys[1], keys[6]
  local expiring = (string.gsub(events, 'events$', 'expiring'))
  local describes, expires = each >= LASTING_EACH, each == EACH
  local window, retention_ms = tonumber(args[1]), tonumber(args[2])
  local vectors = tonumber(args[4])
  local first = put_vectors(keys[7], args, 5, vectors)
  if vectors > 0 then redis.call('HSETNX', keys[10], 'model', args[3]) end

  -- Request ids lie in one of two hashes, by turns of a window; each expires when
  -- its turn comes again, so an id is known for one window at least and two at most.
  local time_ms = now_ms()
  local now_s = math.floor(time_ms / 1000)
  local turn = math.floor(now_s / window)
  local current, before = keys[8 + turn % 2], keys[9 - turn % 2]

  local ids, names, seen = {}, {}, {}
  local at = first
  while at <= #args do
    if args[at] ~= '' then ids[#ids + 1] = args[at] end
    local upto = at + head - 1 + each * tonumber(args[at + 3])
    for i = at + head, upto, each do
      local name = args[i]
      if name ~= '' and not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
    at = upto + 1
  end

  local answered = lookup(before, ids)
  for id, answer in pairs(lookup(current, ids)) do answered[id] = answer end
  local revision, sequence, mark, digest = {}, {}, {}, {}
  -- The description of each key: nil if it is not known, '' if there is none.
  local text_of, kept, known = {}, {}, {}
  for name, value in pairs(lookup(state, names)) do
    local r, s, m, d = string.match(value, STATE)
    revision[name], sequence[name], mark[name], digest[name] = tonumber(r), s, m, d
    -- An erasure leaves no digest.
    if m == 'K' and d ~= '' then known[#known + 1] = name end
  end
  if describes then
    kept = lookup(keys[11], known)
    for _, name in ipairs(names) do
      local m = mark[name]
      text_of[name] = kept[name]
      if not m or m == 'D' or m == 'N' then text_of[name] = '' end
    end
  end

  local replies, requests, touched, tallied, earliest = {}, {}, {}, tally(), nil
  local valid_until, was_valid = {}, {}
  if redis.call('EXISTS', expiring) == 1 then
    for name, s in pairs(sequence) do was_valid[name] = s .. ' ' .. name end
  end
  local held = {}
  at = first
  while at <= #args do
    local id, origin, publisher = args[at], args[at + 1], args[at + 2]
    local lane = head == HEAD and args[at + 4] or ''
    local from, upto = at + head, at + head - 1 + each * tonumber(args[at + 3])
    at = upto + 1
    local reply
    if id ~= '' and answered[id] then
      reply = '=' .. answered[id]
      -- Written again, so that whoever waits for what this connection has written to be on disk or
      -- on a replica waits for what was appended then, too.
      requests[#requests + 1] = id
      requests[#requests + 1] = answered[id]
    elseif held[lane] then
      reply = { '?' }
    else
      local ahead, planned, becomes, wrong = {}, {}, {}, nil
      for i = from, upto, each do
        local name = args[i]
        if name ~= '' then
          local actual = (revision[name] or 0) + (ahead[name] or 0)
          local is = becomes[name]
            or (actual == 0 and 'absent' or mark[name] == 'D' and 'deleted' or 'present')
          if args[i + 1] ~= '' and args[i + 1] ~= is and tonumber(args[i + 1]) ~= actual then
            reply = '!' .. (i - from) / each .. ' ' .. whole(actual) .. (tells_state and ' ' .. is or '')
            break
          end
          local until_ms, sign = validity_of(expires and args[i + 8], time_ms)
          if until_ms and sign == '' and until_ms <= time_ms then
            reply = '<' .. (i - from) / each .. ' ' .. whole(time_ms)
            break
          end
          becomes[name] = args[i + 2] == 'T' and 'deleted' or 'present'
          if describes then
            local was = args[i + 6]
            if was ~= '*' and not planned[name]
              and not is_right(was, args[i + 7], text_of[name], sequence[name]) then
              wrong = wrong or { '?' }
              wrong[#wrong + 1] = name
              wrong[#wrong + 1] = sequence[name] or ''
              wrong[#wrong + 1] = text_of[name] or '?'
            end
            planned[name] = args[i + 2] == 'T' and '' or args[i + 7]
          end
          ahead[name] = (ahead[name] or 0) + 1
        end
      end
      if not reply and wrong then
        reply = wrong
        if lane ~= '' then held[lane] = true end
      end
    end
    if not reply then
      local parts = {}
      for i = from, upto, each do
        local name, tombstone, text = args[i], args[i + 2] == 'T', args[i + 3]
        local kind, body = args[i + 4], args[i + 5]
        local count_now = 0
        if name ~= '' then
          count_now = (revision[name] or 0) + 1
          if tombstone then text = digest[name] or '' end
          local until_ms, sign = validity_of(expires and args[i + 8], time_ms)
          valid_until[name] = until_ms
          if until_ms and sign ~= '=' then body = body .. validity_field(until_ms) end
          body = body .. TAG_REVISION .. varint(count_now)
          if sequence[name] then
            body = body .. TAG_PREVIOUS_SEQUENCE .. varint(#sequence[name]) .. sequence[name]
          end
        end
        if text ~= '' then body = body .. TAG_TEXT_DIGEST .. varint(#text) .. text end
        local placed
        placed, after = place(events, body, after, time_ms)
        if not parts[1] then parts[1] = placed end
        parts[#parts + 1] = whole(count_now)
        counted(tallied, placed, body, name, kind, publisher)
        if name ~= '' then
          if (mark[name] == 'D') ~= tombstone then
            tallied.deleted = tallied.deleted + (tombstone and 1 or -1)
          end
          revision[name], sequence[name], digest[name] = count_now, placed, text
          local described = describes and args[i + 7] or '?'
          if tombstone then
            mark[name], text_of[name] = 'D', ''
          elseif described == '?' then
            mark[name], text_of[name] = 'L', nil
          else
            mark[name], text_of[name] = described == '' and 'N' or 'K', described
          end
          touched[name] = true
        end
      end
      after = nil
      reply = table.concat(parts, ' ')
      earliest = earliest or parts[1]
      local line = parts[1] .. ' ' .. #parts - 1 .. ' ' .. id .. '\t' .. origin
      record(keys[5], now_s, retention_ms, 'p', line)
      if id ~= '' then
        answered[id] = reply
        requests[#requests + 1] = id
        requests[#requests + 1] = reply
      end
    end
    replies[#replies + 1] = reply
  end

  local values, texts, gone = {}, {}, {}
  local was, now_valid = {}, {}
  for name in pairs(touched) do
    values[#values + 1] = name
    values[#values + 1] = whole(revision[name]) .. ' ' .. sequence[name] .. ' ' .. mark[name] .. digest[name]
    was[#was + 1] = was_valid[name]
    if valid_until[name] then
      now_valid[#now_valid + 1] = whole(valid_until[name])
      now_valid[#now_valid + 1] = sequence[name] .. ' ' .. name
    end
    if mark[name] == 'K' then
      if text_of[name] ~= kept[name] then
        texts[#texts + 1] = name
        texts[#texts + 1] = text_of[name]
      end
    elseif kept[name] then
      gone[#gone + 1] = name
    end
  end
  chunked('HSET', state, values)
  put_validity(expiring, was, now_valid)
  if describes then
    chunked('HSET', keys[11], texts)
    chunked('HDEL', keys[11], gone)
  end
  count(events, keys[2], keys[3], keys[4], tallied, earliest)
  if #requests > 0 then
    local fresh = redis.call('EXISTS', current) == 0
    chunked('HSET', current, requests)
    -- One millisecond early: at the turn itself the hash must be gone already.
    if fresh then redis.call('PEXPIREAT', current, (turn + 2) * window * 1000 - 1) end
  end
  return replies
end

-- Appends the events of many publishes, each publish whole or not at all.
--
-- KEYS  events, stats, activity, activity-open, audit, state, vectors, requests:0,
--       requests:1, matching, descriptions
-- ARGV  request window in seconds, retention of audit records in ms, the vectors' model,
--       number of vectors, then for each: digest, vector,
--       then for each publish: request_id or "", origin, publisher, number of events, lane or
--       "", and for each event: data key or "", expected revision or "", "T" (tombstone) or "",
--       digest, type, body, what its key's description was taken to be, and what it is with it:
--         was  "*": it does not matter, "=": the same, "@<sequence>": that of the latest event,
--              which is this one; or the description itself
--         is   "": none, "?": only the event tells, "T<text>", or what stands for one that is
--              sealed
-- Returns for each publish one string:
--       "<first sequence> <revision> …"   appended; the sequences are consecutive
--       "=<first sequence> <revision> …"  the request was answered before, like this
--       "!<index of the event> <actual revision>"  a revision was not the expected one
-- or, where a description was not what it was taken to be, {"?", …} with, for each such key:
--       data key, its latest sequence or "", its description or "?"
--       Nothing of the lane is appended after it in this call; for that, "?" stands alone.
local function append_described(keys, args)
  return append_all(keys, args, HEAD, LASTING_EACH, false)
end

-- The same, where the expected revision may also be what the key is to be ("absent", "present",
-- "deleted"), and a refusal says what it is: "!<index> <actual revision> <actual state>".
local function append_expecting(keys, args)
  return append_all(keys, args, HEAD, LASTING_EACH, true)
end

-- The same, where each event has one argument more: how long it is valid; see functions/expiry.lua.
-- A time that has passed is refused, after the requests that were answered before:
--       "<<index of the event> <the store's time in unix ms>"
local function append_expiring(keys, args)
  return append_all(keys, args, HEAD, EACH, true)
end

-- The same with a last argument: the highest sequence of the project that the server has seen, or "".
local function append_after(keys, args)
  local after = table.remove(args)
  return append_all(keys, args, HEAD, EACH, true, after ~= '' and after or nil)
end

-- The same as servers call it that know neither of descriptions that carry over nor of validity:
-- without lanes, and without the last three arguments of each event.
local function append(keys, args)
  return append_all(keys, args, PLAIN_HEAD, PLAIN_EACH, false)
end

-- Reads a varint; returns it, and where the next byte is.
local function read_varint(body, at)
  local value, scale = 0, 1
  while true do
    local byte = string.byte(body, at)
    at = at + 1
    if byte < 128 then return value + byte * scale, at end
    value = value + (byte - 128) * scale
    scale = scale * 128
  end
end

-- What `append` adds to an event that has a digest: nothing else ends like this.
local SUFFIX = TAG_PREVIOUS_SEQUENCE .. '(.)(%d+%-%d+)' .. TAG_TEXT_DIGEST .. '\16................$'

-- The previous sequence in an event's bytes, or nil. All its fields are varints or bytes.
local function previous_sequence(body)
  local length, found = string.match(string.sub(body, -64), SUFFIX)
  if found and string.byte(length) == #found then return found end
  local at, size = 1, #body
  while at <= size do
    local tag, value
    tag, at = read_varint(body, at)
    value, at = read_varint(body, at)
    if tag % 8 == 2 then
      if tag == 82 then return string.sub(body, at, at + value - 1) end
      at = at + value
    end
  end
end

-- The event at a sequence and those before it of the same data key, by the links between
-- them, newest first.
--
-- KEYS  events
-- ARGV  sequence, how many at most, bytes after which no further one is added
-- Returns {sequence, body, …}; it ends at the key's first event, or where one is missing.
local function history(keys, args)
  local at, most, room = args[1], tonumber(args[2]), tonumber(args[3])
  local found = {}
  while at and #found < 2 * most and room > 0 do
    local row = redis.call('XRANGE', keys[1], at, at)[1]
    if not row then break end
    local body = row[2][2]
    found[#found + 1] = row[1]
    found[#found + 1] = body
    room = room - #body
    at = previous_sequence(body)
  end
  return found
end

-- Adds the first entries of a range to `found`, each as sequence and body. It reads in steps, so that
-- no more than the last of them is read in vain.
--
-- command: XRANGE or XREVRANGE
-- Returns how many bytes are left of `room`, after the last of which nothing is added, and whether
-- the range has no more.
local function add_entries(found, command, events, at, until_, left, room)
  local n, step = #found, 16
  while left > 0 do
    step = math.min(step, left)
    local rows = redis.call(command, events, at, until_, 'COUNT', step)
    local largest = 1
    for i = 1, #rows do
      local body = rows[i][2][2]
      found[n + 1], found[n + 2] = rows[i][1], body
      n, room = n + 2, room - #body
      if room <= 0 then return room, false end
      if #body > largest then largest = #body end
    end
    if #rows < step then return room, true end
    at, left = '(' .. rows[#rows][1], left - #rows
    step = math.max(1, math.min(64, math.floor(room / largest)))
  end
  return room, false
end

-- The first events of a range, in its direction.
--
-- KEYS  events
-- ARGV  XRANGE or XREVRANGE, where it begins and ends, how many at most, bytes after which no
--       further one is added
-- Returns {1 if the range has no more, or 0, then for each: sequence, body}.
local function read_part(keys, args)
  local found = { 0 }
  local _, ended = add_entries(
    found, args[1], keys[1], args[2], args[3], tonumber(args[4]), tonumber(args[5]))
  if ended then found[1] = 1 end
  return found
end

-- Finds the event that was read last in a log, to go on from there.
--
-- bare: Whether there may never have been an event there, as it was the tail of a log that somebody
--   has trimmed
-- Returns its row or nil, then "+", "<" or "!", see `follow`.
local function find_position(events, position, bare)
  local row = redis.call('XRANGE', events, position, position)[1]
  if row then return row, '+' end
  local archive = string.sub(events, 1, -7) .. 'archive'
  local archived, tail = redis.call('HGET', archive, 'last') or '0-0', tail_of(events)
  if is_after(archived, position) then return nil, '<' end
  local explained = position == archived or position == tail or (bare and is_after(tail, position))
    or not is_after(position, deleted_upto(events, 'events'))
  return nil, explained and '+' or '!'
end

-- What follows in some projects after the events that were read last.
--
-- KEYS  for each project: events
-- ARGV  how many of a project at most, bytes after which no further one is added, then for each
--       project: the sequence of the event that was read last, "D" or "", "T" or "" (see `bare` above),
--       and that of an earlier one that has to be there as well, or ""
-- Returns for each project one of
--       {"+", the SHA-1 of that event's body, if "D" and it is there, or "", 1 if there may be more,
--         or 0, the bytes of all events that the project ever had, how many are in the stream, then
--         for each: sequence, body}
--       {"<", the tail}   what follows next is in the archive alone
--       {"!", the tail}   the event is gone, and nobody has removed it: this is not the log any more
--         in which it was read
local function follow(keys, args)
  local most, room, replies = tonumber(args[1]), tonumber(args[2]), {}
  for i, events in ipairs(keys) do
    local position, earlier = args[4 * i - 1], args[4 * i + 2]
    local row, what = find_position(events, position, args[4 * i + 1] == 'T')
    if earlier ~= '' then
      local _, what_earlier = find_position(events, earlier, false)
      if what_earlier == '!' then what = '!' end
    end
    if what == '+' then
      local stats, ended = string.sub(events, 1, -7) .. 'stats', false
      local digest = row and args[4 * i] == 'D' and redis.sha1hex(row[2][2]) or ''
      local bytes = tonumber(redis.call('HGET', stats, 'bytes') or 0) or 0
      local reply = { '+', digest, 0, bytes, redis.call('XLEN', events) }
      if room > 0 then
        room, ended = add_entries(reply, 'XRANGE', events, '(' .. position, '+', most, room)
      end
      if not ended then reply[3] = 1 end
      replies[i] = reply
    else
      replies[i] = { what, tail_of(events) }
    end
  end
  return replies
end

redis.register_function('contex1_append', append)
redis.register_function('contex1_append_described', append_described)
redis.register_function('contex1_append_expecting', append_expecting)
redis.register_function('contex1_append_expiring', append_expiring)
redis.register_function('contex1_append_after', append_after)
redis.register_function{ function_name = 'contex1_read_part', callback = read_part, flags = { 'no-writes' } }
redis.register_function{ function_name = 'contex1_follow', callback = follow, flags = { 'no-writes' } }
redis.register_function{ function_name = 'contex1_history', callback = history, flags = { 'no-writes' } }
