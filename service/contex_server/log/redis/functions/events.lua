-- Arguments before a publish's events, and of each event.
local HEAD, EACH = 5, 9
-- Of each event where nothing is said of validity.
local LASTING_EACH = 8
-- Both where nothing is said of descriptions either.
local PLAIN_HEAD, PLAIN_EACH = 4, 6

local PUBLISHED = 'data_published'

-- What a body begins with that is sealed, before the length and the id of the key; see
-- tiers/sealer.py.
local SEALED, KEY_ID_CHARS = 114, 16

local DIGEST = TAG_TEXT_DIGEST .. '\16'

-- Stores encodings: {digest, encoding, …}.
local function put_vectors(keys, model, vectors)
  for i = 1, #vectors, 2 do redis.call('HSETNX', keys[7], vectors[i], vectors[i + 1]) end
  if #vectors > 0 then redis.call('HSETNX', keys[10], 'model', model) end
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
  local ms, n = split(after)
  if time_ms <= ms then
    local placed = redis.pcall('XADD', events, whole(ms) .. '-' .. whole(n + 1), 'e', body)
    if not placed.err then return placed, placed end
  end
  return redis.call('XADD', events, '*', 'e', body), nil
end

-- What was answered to requests, by their ids; "" is none.
local function answers(current, before, ids)
  local asked = {}
  for _, id in ipairs(ids) do
    if id ~= '' then asked[#asked + 1] = id end
  end
  local answered = {}
  for _, key in ipairs({ before, current }) do
    if #asked > 0 and redis.call('EXISTS', key) == 1 then
      for id, answer in pairs(lookup(key, asked)) do answered[id] = answer end
    end
  end
  return answered
end

-- What the store knows of data keys, by their places in `names`: revision, sequence, mark and digest
-- as in STATE; `text`, the description, nil if it is not known and '' if there is none; and `kept`,
-- what the hash <descriptions> says, where that is wanted.
local function states(state, descriptions, names)
  local revision, sequence, mark, digest, text, kept = {}, {}, {}, {}, {}, {}
  local places, fields, match = {}, {}, string.match
  local values, found = fetch(state, names), 0
  for k = 1, #names do
    local value = values[k]
    if value then
      local r, s, m, d = match(value, STATE)
      revision[k], sequence[k], mark[k], digest[k] = r + 0, s, m, d
      -- An erasure leaves no digest.
      if m == 'K' and d ~= '' and descriptions then
        found = found + 1
        places[found], fields[found] = k, names[k]
      elseif m == 'D' or m == 'N' then
        text[k] = ''
      end
    else
      text[k] = ''
    end
  end
  values = fetch(descriptions, fields)
  for at = 1, found do
    local k, value = places[at], values[at]
    if value then text[k], kept[k] = value, value end
  end
  return {
    revision = revision, sequence = sequence, mark = mark, digest = digest, text = text, kept = kept,
  }
end

-- Why the events `from` to `upto` of a batch, which are one publish, may not be appended; nil if they
-- may.
local function refusal(batch, known, from, upto, time_ms, tells_state)
  local slots, expected, was, described = batch.slots, batch.expected, batch.was, batch.described
  local validity, tombstones = batch.validity, batch.tombstones
  local ahead, becomes, planned, wrong = {}, {}, {}, nil
  for i = from, upto do
    local k = slots[i]
    if k > 0 then
      local wants = expected[i]
      local actual = (known.revision[k] or 0) + (ahead[k] or 0)
      if wants then
        local is = becomes[k]
          or (actual == 0 and 'absent' or known.mark[k] == 'D' and 'deleted' or 'present')
        if wants ~= is and tonumber(wants) ~= actual then
          return '!' .. i - from .. ' ' .. whole(actual) .. (tells_state and ' ' .. is or '')
        end
      end
      if validity[i] then
        local until_ms, sign = validity_of(validity[i], time_ms)
        if sign == '' and until_ms <= time_ms then return '<' .. i - from .. ' ' .. whole(time_ms) end
      end
      if described then
        if was[i] and not planned[k]
          and not is_right(was[i], described[i], known.text[k], known.sequence[k]) then
          wrong = wrong or { '?' }
          wrong[#wrong + 1] = batch.names[k]
          wrong[#wrong + 1] = known.sequence[k] or ''
          wrong[#wrong + 1] = known.text[k] or '?'
        end
        planned[k] = true
      end
      becomes[k] = tombstones[i] and 'deleted' or 'present'
      ahead[k] = (ahead[k] or 0) + 1
    end
  end
  return wrong
end

-- Whether some of the events `from` to `upto` are sealed with a key that there is not any more: it was
-- destroyed with the project, whose name another one has by now. Nobody could ever read them.
local function has_lost_key(subjects, exists, bodies, from, upto)
  local byte = string.byte
  for i = from, upto do
    local body = bodies[i]
    if byte(body) == SEALED then
      local at = 2
      while byte(body, at) > 127 do at = at + 1 end
      local id = string.sub(body, at + 1, at + KEY_ID_CHARS)
      if exists[id] == nil then exists[id] = redis.call('HEXISTS', subjects, 'k:' .. id) == 1 end
      if not exists[id] then return true end
    end
  end
  return false
end

-- Writes what has become of data keys; `touched` are their places, `before` the sequences that their
-- latest events had, `valid_until` until when those are valid that they have now.
local function put_states(keys, expiring, names, known, touched, before, valid_until, describes)
  local revision, sequence, mark, digest = known.revision, known.sequence, known.mark, known.digest
  local text, kept = known.text, known.kept
  local values, texts, gone, was, now_valid = {}, {}, {}, {}, {}
  local expires = redis.call('EXISTS', expiring) == 1
  for at = 1, #touched do
    local k = touched[at]
    local name = names[k]
    values[2 * at - 1] = name
    values[2 * at] = whole(revision[k]) .. ' ' .. sequence[k] .. ' ' .. mark[k] .. digest[k]
    if expires and before[k] then was[#was + 1] = before[k] .. ' ' .. name end
    if valid_until[k] then
      now_valid[#now_valid + 1] = whole(valid_until[k])
      now_valid[#now_valid + 1] = sequence[k] .. ' ' .. name
    end
    if mark[k] == 'K' then
      if text[k] ~= kept[k] then
        texts[#texts + 1] = name
        texts[#texts + 1] = text[k]
      end
    elseif kept[k] then
      gone[#gone + 1] = name
    end
  end
  chunked('HSET', keys[6], values)
  put_validity(expiring, was, now_valid)
  if describes then
    chunked('HSET', keys[11], texts)
    chunked('HDEL', keys[11], gone)
  end
end

-- Appends a batch of publishes, each publish whole or not at all; for the replies see
-- `append_packed`.
--
-- batch:
--   window, retention_ms, after
--     As `append_packed` has them; `after` is nil if there is none.
--   names
--     The data keys, each once.
--   ids, origins, publishers, lanes, counts
--     Of each publish; see `append_described`. `counts` is how many events it has.
--   subjects
--     The key of <subjects>, which must have the keys that events are sealed with; nil if that is not
--     looked at.
--   slots, digests, bodies, described
--     Of each event; `slots` is its data key's place in `names`, or 0. Without `described`, nothing
--     is said of descriptions.
--   expected, was, kinds, tombstones, validity
--     Of events by their numbers, nothing for one that has none, that takes nothing for granted, that
--     is published data, no tombstone, and lasts.
local function append_batch(keys, batch, tells_state)
  local call, char = redis.call, string.char
  local events, names, slots, bodies = keys[1], batch.names, batch.slots, batch.bodies
  local digests, described, kinds = batch.digests, batch.described, batch.kinds
  local tombstones, validity = batch.tombstones, batch.validity
  local expiring = (string.gsub(events, 'events$', 'expiring'))

  -- Request ids lie in one of two hashes, by turns of a window; each expires when
  -- its turn comes again, so an id is known for one window at least and two at most.
  local time_ms = now_ms()
  local now_s = math.floor(time_ms / 1000)
  local turn = math.floor(now_s / batch.window)
  local current = keys[8 + turn % 2]
  local answered = answers(current, keys[9 - turn % 2], batch.ids)
  local known = states(keys[6], described and keys[11], names)
  local revision, sequence, mark = known.revision, known.sequence, known.mark
  local digest_of, text_of = known.digest, known.text

  local replies, requests, touched, before, valid_until = {}, {}, {}, {}, {}
  local tallied, earliest = tally(), nil
  local types, told, counted_of = tallied.types, tallied.told, {}
  local plain, bytes, largest, appended, tellings = 0, 0, 0, 0, 0
  local asks = next(batch.expected) or next(batch.was) or next(validity)
  local held, retention_ms, after = {}, batch.retention_ms, batch.after
  local subjects, exists = batch.subjects, {}
  local upto = 0
  for p, count_here in ipairs(batch.counts) do
    local id, origin, publisher = batch.ids[p], batch.origins[p], batch.publishers[p]
    local lane, from, reply = batch.lanes[p], upto + 1, nil
    upto = upto + count_here
    if id ~= '' and answered[id] then
      reply = '=' .. answered[id]
      -- Written again, so that whoever waits for what this connection has written to be on disk or
      -- on a replica waits for what was appended then, too.
      requests[#requests + 1] = id
      requests[#requests + 1] = answered[id]
    elseif held[lane] then
      reply = { '?' }
    elseif asks then
      reply = refusal(batch, known, from, upto, time_ms, tells_state)
      if type(reply) == 'table' and lane ~= '' then held[lane] = true end
    end
    if not reply and subjects and has_lost_key(subjects, exists, bodies, from, upto) then
      reply = '~'
    end
    if not reply then
      local first
      local parts = {}
      for i = from, upto do
        local k, body, digest = slots[i], bodies[i], digests[i]
        local number, tombstone = 0, tombstones[i]
        local kind = kinds[i]
        if k > 0 then
          number = (revision[k] or 0) + 1
          if tombstone then digest = digest_of[k] or '' end
          if validity[i] then
            local until_ms, sign = validity_of(validity[i], time_ms)
            valid_until[k] = until_ms
            if sign ~= '=' then body = body .. validity_field(until_ms) end
          else
            valid_until[k] = nil
          end
          local latest = sequence[k]
          local encoded = number < 128 and char(number) or varint(number)
          if latest and #digest == 16 then
            body = body .. TAG_REVISION .. encoded
              .. TAG_PREVIOUS_SEQUENCE .. char(#latest) .. latest .. DIGEST .. digest
          else
            body = body .. TAG_REVISION .. encoded
            if latest then body = body .. TAG_PREVIOUS_SEQUENCE .. char(#latest) .. latest end
            if digest ~= '' then body = body .. TAG_TEXT_DIGEST .. varint(#digest) .. digest end
          end
        elseif digest ~= '' then
          body = body .. TAG_TEXT_DIGEST .. varint(#digest) .. digest
        end
        local placed
        if after then
          placed, after = place(events, body, after, time_ms)
        else
          placed = call('XADD', events, '*', 'e', body)
        end
        first = first or placed
        parts[i - from + 1] = whole(number)
        local size = #body
        bytes = bytes + size
        if size > largest then largest = size end
        if bytes <= TOLD_BYTES then
          told[tellings + 1], told[tellings + 2] = placed .. ' ' .. whole(size), body
          tellings = tellings + 2
        end
        if kind then types[kind] = (types[kind] or 0) + 1 else plain = plain + 1 end
        if k > 0 then
          if (mark[k] == 'D') ~= (tombstone ~= nil) then
            tallied.deleted = tallied.deleted + (tombstone and 1 or -1)
          end
          if counted_of[k] then
            counted_of[k] = counted_of[k] + 1
          else
            counted_of[k], before[k] = 1, sequence[k]
            touched[#touched + 1] = k
          end
          revision[k], sequence[k], digest_of[k] = number, placed, digest
          local text = described and described[i] or '?'
          if tombstone then
            mark[k], text_of[k] = 'D', ''
          elseif text == '?' then
            mark[k], text_of[k] = 'L', nil
          else
            mark[k], text_of[k] = text == '' and 'N' or 'K', text
          end
        end
      end
      after = nil
      appended = appended + count_here
      tallied.publishers[publisher] = (tallied.publishers[publisher] or 0) + count_here
      earliest = earliest or first
      reply = first .. ' ' .. table.concat(parts, ' ')
      local line = first .. ' ' .. whole(count_here) .. ' ' .. id .. '\t' .. origin
      record(keys[5], now_s, retention_ms, 'p', line)
      retention_ms = 0 -- Once is enough.
      if id ~= '' then
        answered[id] = reply
        requests[#requests + 1] = id
        requests[#requests + 1] = reply
      end
    end
    replies[p] = reply
  end

  put_states(keys, expiring, names, known, touched, before, valid_until, described ~= nil)
  tallied.events, tallied.bytes, tallied.largest = appended, bytes, largest
  if plain > 0 then types[PUBLISHED] = (types[PUBLISHED] or 0) + plain end
  for _, k in ipairs(touched) do tallied.keys[names[k]] = counted_of[k] end
  count(events, keys[2], keys[3], keys[4], tallied, earliest)
  if #requests > 0 then
    local fresh = call('EXISTS', current) == 0
    chunked('HSET', current, requests)
    -- One millisecond early: at the turn itself the hash must be gone already.
    if fresh then call('PEXPIREAT', current, (turn + 2) * batch.window * 1000 - 1) end
  end
  return replies
end

-- `append_batch` of what comes as one argument for each field; see `append_described`.
local function append_all(keys, args, head, each, tells_state, after)
  local first = 5 + 2 * tonumber(args[4])
  local vectors = {}
  for i = 5, first - 1 do vectors[i - 4] = args[i] end
  put_vectors(keys, args[3], vectors)
  local batch = {
    window = tonumber(args[1]), retention_ms = tonumber(args[2]), after = after,
    names = {}, ids = {}, origins = {}, publishers = {}, lanes = {}, counts = {},
    slots = {}, digests = {}, bodies = {}, described = each >= LASTING_EACH and {} or nil,
    expected = {}, was = {}, kinds = {}, tombstones = {}, validity = {},
  }
  local names, places = batch.names, { [''] = 0 }
  local at, p, e = first, 0, 0
  while at <= #args do
    p = p + 1
    batch.ids[p], batch.origins[p], batch.publishers[p] = args[at], args[at + 1], args[at + 2]
    batch.counts[p] = tonumber(args[at + 3])
    batch.lanes[p] = head == HEAD and args[at + 4] or ''
    local from = at + head
    at = from + each * batch.counts[p]
    for i = from, at - 1, each do
      e = e + 1
      local name, expected, kind = args[i], args[i + 1], args[i + 4]
      if not places[name] then
        names[#names + 1] = name
        places[name] = #names
      end
      batch.slots[e], batch.digests[e], batch.bodies[e] = places[name], args[i + 3], args[i + 5]
      if expected ~= '' then batch.expected[e] = expected end
      if args[i + 2] == 'T' then batch.tombstones[e] = true end
      if kind ~= PUBLISHED then batch.kinds[e] = kind end
      if each >= LASTING_EACH then
        if args[i + 6] ~= '*' then batch.was[e] = args[i + 6] end
        batch.described[e] = args[i + 7]
      end
      if each == EACH and args[i + 8] ~= '' then batch.validity[e] = args[i + 8] end
    end
  end
  return append_batch(keys, batch, tells_state)
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

-- The same as `append_after` with fewer arguments, which cost less to read and need no loops here.
-- With the key <subjects>, a publish is answered "~" that has an event sealed with a key that is not
-- there.
--
-- KEYS  as `append_described`, and subjects
-- ARGV  request window in seconds, retention of audit records in ms, the vectors' model, the highest
--       sequence of the project that the server has seen or "", and columns, one after the other in
--       MessagePack:
--         arrays  vectors (digest, vector, …), data keys (each once), texts (each once),
--         of each publish: request id or "", and numbers: the places of origin and publisher among the
--           texts, how many events, lane or 0,
--         of each event: its key's place or 0, its description's place among the texts, digest, body,
--         maps, by the numbers of the events for which they say something: expected revision or
--           state, what the description was taken to be, type, "T", how long it is valid
local function append_packed(keys, args)
  local vectors, names, texts, ids, origins, publishers, counts, lanes, slots, described, digests,
    bodies, expected, was, kinds, tombstones, validity = cmsgpack.unpack(args[5])
  put_vectors(keys, args[3], vectors)
  for p = 1, #ids do
    origins[p], publishers[p] = texts[origins[p]], texts[publishers[p]]
    if lanes[p] == 0 then lanes[p] = '' end
  end
  for i = 1, #described do described[i] = texts[described[i]] end
  return append_batch(keys, {
    window = tonumber(args[1]), retention_ms = tonumber(args[2]),
    after = args[4] ~= '' and args[4] or nil, subjects = keys[12],
    names = names, ids = ids, origins = origins, publishers = publishers, lanes = lanes,
    counts = counts, slots = slots, digests = digests, bodies = bodies, described = described,
    expected = expected, was = was, kinds = kinds, tombstones = tombstones, validity = validity,
  }, true)
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
redis.register_function('contex1_append_packed', append_packed)
redis.register_function('contex2_append_packed', append_packed)
redis.register_function{ function_name = 'contex1_read_part', callback = read_part, flags = { 'no-writes' } }
redis.register_function{ function_name = 'contex1_follow', callback = follow, flags = { 'no-writes' } }
redis.register_function{ function_name = 'contex1_history', callback = history, flags = { 'no-writes' } }
