-- Consumers that share an agent's inbox, as the consumer group GROUP of its stream.
--
-- What a delivery is called here is its ref: the id of its entry in the inbox, or "+" and the id of
-- its entry in a second stream for what the inbox has no more, or not in this place. Both streams
-- have the group; the store's list of pending entries says who has a delivery, and the attempt. Those
-- that nobody has are pending for WAITING. Keys:
--   again:<agent>   stream of such deliveries: fields "o" the id in the inbox, "d" what was decided,
--                   "k" "R" if it was redriven, "B" if it comes from the inbox's base
--   due:<agent>     sorted set: ref -> unix ms, from when on anybody may have it: when its claim runs
--                   out, when it is to be tried again, 0 if it is free. Each delivery that does not
--                   wait for another one. (The store sets no time of a pending entry in the future.)
--   busy:<agent>    hash: "k<data key>" -> the ref that others of the key wait for, "r<ref>" -> data
--                   key
--   waiting:<agent> sorted set, all with score 0: "<data key>\0<padded id in the inbox> <ref>" of
--                   those that wait
--   parked:<agent>  stream of deliveries that were put aside: "o", "d", "n" attempts, "c" the
--                   consumer, "w" why: "C<reason>", "A" after too many attempts, "S" by a seek
--   group:<agent>   hash: "epoch" of the claims, which changes when all are cleared; "base" up to where the
--                   inbox's base was taken, while the group is behind what was trimmed; "held" the
--                   place before which the agent's cursor stays as long as something of the base is
--                   outstanding, "" if it is not to move; "known" what had been trimmed when that was last compared;
--                   "superseded", "dropped", "removed" what was missed; "n<consumer>" its stream
local GROUP, WAITING = 'consumers', '~waiting'
local NEED, RELATIVE_NEED, FILTER = 29, 33, 5 -- bytes; see inbox/entry.py
local REGISTERED = 15
-- Nothing is left of a consumer that has had nothing and asked for nothing for so long: its server was killed.
local LEFT_MS = 3600000
-- A delivery that was tried too often is left alone for as long while a server parks it.
local PARKING_MS = 5000

-- What an entry of an inbox is about: its kind and its data key.
local function about(body)
  local flags, at = string.byte(body), 2
  local skipped = math.floor(flags / 16) % 2 == 1 and 4 or 2
  while skipped > 0 do
    if string.byte(body, at) < 128 then skipped = skipped - 1 end
    at = at + 1
  end
  at = at + 1 + string.byte(body, at) * (flags >= 64 and RELATIVE_NEED or NEED)
  if math.floor(flags / 32) % 2 == 1 then at = at + 1 + string.byte(body, at) * FILTER end
  return flags % 16, string.sub(body, at)
end

local function group_of(own, id)
  return {
    own = own, id = id, inbox = own .. 'inbox:' .. id, again = own .. 'again:' .. id,
    meta = own .. 'group:' .. id, due = own .. 'due:' .. id, busy = own .. 'busy:' .. id,
    waiting = own .. 'waiting:' .. id, parked = own .. 'parked:' .. id, base = own .. 'base:' .. id,
  }
end

local function group_by_key(key, args)
  local id = args[1]
  return group_of(string.sub(key, 1, -#id - 7), id) -- "group:"
end

-- The stream and the id that a ref means.
local function placed_at(g, ref)
  if string.byte(ref) == 43 then return g.again, string.sub(ref, 2) end
  return g.inbox, ref
end

-- Who has a delivery and which attempt it is; nil if it is not outstanding.
local function claim_of(g, ref)
  local stream, id = placed_at(g, ref)
  local row = redis.call('XPENDING', stream, GROUP, id, id, 1)[1]
  if row then return row[2], row[4] end
end

-- An entry: its id in the inbox and what was decided; nil if it was removed.
local function entry_of(g, ref)
  local stream, id = placed_at(g, ref)
  local row = redis.call('XRANGE', stream, id, id)[1]
  if row and stream == g.again then return row[2][2], row[2][4] end
  if row then return id, row[2][2] end
  local kept = stream == g.inbox and redis.call('XRANGE', g.base, id, id)[1]
  if kept then return id, kept[2][2] end
end

local function waits(key, place, ref)
  local ms, n = string.match(place, '^(%d+)-(%d+)$')
  local padded = string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #n) .. n
  return key .. '\0' .. padded .. ' ' .. ref
end

-- Lets the next delivery of a data key go on. Whether there is one. `instead` is one that takes the
-- place of the former, once it is read.
local function release(g, ref, instead)
  redis.call('ZREM', g.due, ref)
  local key = redis.call('HGET', g.busy, 'r' .. ref)
  if not key then return false end
  redis.call('HDEL', g.busy, 'r' .. ref)
  if instead then
    redis.call('HSET', g.busy, 'k' .. key, instead, 'r' .. instead, key)
    return true
  end
  local following = redis.call('ZRANGEBYLEX', g.waiting, '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', 0, 1)[1]
  if not following then
    redis.call('HDEL', g.busy, 'k' .. key)
    return false
  end
  local other = string.match(following, '%S+$')
  redis.call('ZREM', g.waiting, following)
  redis.call('HSET', g.busy, 'k' .. key, other, 'r' .. other, key)
  redis.call('ZADD', g.due, 0, other)
  return true
end

-- Lets go of a delivery for good. Whether another one can go on.
local function settled(g, ref)
  local stream, id = placed_at(g, ref)
  redis.call('XACK', stream, GROUP, id)
  if stream == g.again then
    redis.call('XDEL', stream, id)
    if redis.call('XLEN', stream) == 0 then redis.call('HDEL', g.meta, 'held') end
  end
  return release(g, ref)
end

-- The same of several of the inbox.
local function all_settled(g, refs)
  if #refs == 0 then return false end
  for from = 1, #refs, CHUNK do
    redis.call('XACK', g.inbox, GROUP, unpack(refs, from, math.min(from + CHUNK - 1, #refs)))
  end
  local ready = false
  if redis.call('ZCARD', g.waiting) > 0 then
    for _, ref in ipairs(refs) do ready = release(g, ref) or ready end
    return ready
  end
  -- Nobody waits for any of them.
  chunked('ZREM', g.due, refs)
  local asks = {}
  for i, ref in ipairs(refs) do asks[i] = 'r' .. ref end
  local keys_of, gone = lookup(g.busy, asks), {}
  for name, key in pairs(keys_of) do
    gone[#gone + 1] = name
    gone[#gone + 1] = 'k' .. key
  end
  chunked('HDEL', g.busy, gone)
  return false
end

-- Lets a delivery that somebody has, or that has just been read, wait for whoever is next.
local function put_back(g, ref, attempt, due_ms)
  local stream, id = placed_at(g, ref)
  local there = redis.call('XCLAIM', stream, GROUP, WAITING, 0, id, 'RETRYCOUNT', attempt, 'JUSTID')
  if due_ms and there[1] then redis.call('ZADD', g.due, whole(due_ms), ref) end
  return there[1] ~= nil
end

-- One that was removed while it was outstanding: the store has let go of it as it was to be claimed.
-- If it is the latest of its datum, the base has it: before later ones of its key. Whether another one
-- can go on.
local function removed(g, ref)
  local kept = string.byte(ref) ~= 43 and redis.call('XRANGE', g.base, ref, ref)[1]
  if not kept then
    redis.call('HINCRBY', g.meta, 'removed', 1)
    return release(g, ref)
  end
  local id = redis.call('XADD', g.again, '*', 'o', ref, 'd', kept[2][2], 'k', 'B')
  local held = redis.call('HGET', g.meta, 'held')
  if not held or held ~= '' and is_after(held, ref) then redis.call('HSET', g.meta, 'held', '') end
  release(g, ref, '+' .. id)
  return true
end

local function group_info(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups.err and {} or groups) do
    local found = {}
    for i = 1, #group, 2 do found[group[i]] = group[i + 1] end
    if found.name == GROUP then return found end
  end
end

-- Tells the other servers that have consumers of an agent that there is something to be had.
local function tell_servers(g)
  local bucket, name = string.match(g.own, '^(ctx:{%d+}):p:(.*):$')
  local channel = bucket .. ':appended'
  local listening = redis.pcall('PUBSUB', 'SHARDNUMSUB', channel)
  if (listening[2] or 0) > 1 then redis.pcall('SPUBLISH', channel, '!' .. name .. ' ' .. g.id) end
end

-- What an inbox has let go of: the place, and how many deliveries then.
local function trimmed_off(g)
  local held = redis.call('HGET', g.own .. 'deciding', 't' .. g.id) or '0-0 0 0'
  local upto, superseded, dropped = string.match(held, '^(%S+) (%d+) (%d+)$')
  return upto, tonumber(superseded), tonumber(dropped)
end

-- Begins the group where it does not exist, at a place, with claims of a new epoch. What was redriven
-- is on its way still.
local function begin_group(g, place, epoch)
  local redriven = redis.call('XRANGE', g.again, '-', '+')
  for _, kind in ipairs({ 'again', 'due', 'busy', 'waiting' }) do redis.call('DEL', g[kind]) end
  redis.pcall('XGROUP', 'DESTROY', g.inbox, GROUP)
  redis.call('XGROUP', 'CREATE', g.inbox, GROUP, place, 'MKSTREAM')
  redis.call('XGROUP', 'CREATE', g.again, GROUP, '0', 'MKSTREAM')
  for _, row in ipairs(redriven) do
    if row[2][6] == 'R' then redis.call('XADD', g.again, '*', unpack(row[2])) end
  end
  redis.call('HDEL', g.meta, 'base', 'held', 'known')
  local upto, superseded, dropped = trimmed_off(g)
  redis.call('HSET', g.meta, 'epoch', epoch, 'known', superseded .. ' ' .. dropped)
  if is_after(upto, place) then redis.call('HSET', g.meta, 'base', place) end
end

local function new_epoch(g)
  local before = tonumber(redis.call('HGET', g.meta, 'epoch') or 0)
  return whole(math.max(now_ms(), before + 1))
end

-- Lets go of consumers whose server has never said that they left.
local function forget_lost(g)
  local held, idle = {}, {}
  for _, stream in ipairs({ g.inbox, g.again }) do
    for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
      local one = {}
      for i = 1, #row, 2 do one[row[i]] = row[i + 1] end
      held[one.name] = (held[one.name] or 0) + one.pending
      idle[one.name] = math.min(idle[one.name] or one.idle, one.idle)
    end
  end
  for name, ms in pairs(idle) do
    if name ~= WAITING and held[name] == 0 and ms > LEFT_MS then
      redis.call('HDEL', g.meta, 'n' .. name)
      for _, stream in ipairs({ g.inbox, g.again }) do
        redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, name)
      end
    end
  end
end

-- Lets a consumer in. What it had and has no more is given back.
--
-- KEYS  group
-- ARGV  agent, where a new group begins, the consumer, its stream, "A" if the stream was let in before, the
--       event at that place, then the refs that it still has
-- Returns the epoch; nil if the stream was let in before and another one has its name; 0 if a new group does
-- not begin there, as the agent has gone, or has moved on
local function open_group(keys, args)
  local g = group_by_key(keys[1], args)
  local now_has = redis.call('HGET', g.meta, 'n' .. args[3])
  if args[5] == 'A' and now_has and now_has ~= args[4] then return nil end
  if redis.call('HEXISTS', g.meta, 'epoch') == 0 or not group_info(g.inbox) then
    local cursor = redis.call('HGET', g.own .. 'cursors', g.id)
    if not cursor or is_after(cursor, args[6]) then return 0 end
    begin_group(g, args[2], new_epoch(g))
  end
  forget_lost(g)
  redis.call('HSET', g.meta, 'n' .. args[3], args[4])
  local has = {}
  for i = 7, #args do has[args[i]] = true end
  local back = false
  for _, stream in ipairs({ g.inbox, g.again }) do
    for _, row in ipairs(redis.call('XPENDING', stream, GROUP, '-', '+', 10000, args[3])) do
      local ref = (stream == g.again and '+' or '') .. row[1]
      if not has[ref] then
        if not put_back(g, ref, row[4], 0) then removed(g, ref) end
        back = true
      end
    end
  end
  if back then tell_servers(g) end
  return redis.call('HGET', g.meta, 'epoch')
end

-- Lets go of a consumer that has left, once it has nothing.
local function forget(g, consumer)
  if consumer == WAITING or redis.call('HEXISTS', g.meta, 'n' .. consumer) == 1 then return end
  for _, stream in ipairs({ g.inbox, g.again }) do
    if #redis.call('XPENDING', stream, GROUP, '-', '+', 1, consumer) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer)
    end
  end
end

-- Takes what was removed ahead of the group: the latest of each datum, as far as there is room.
local function take_base(g, room)
  local position, upto = redis.call('HGET', g.meta, 'base'), trimmed_off(g)
  local last = group_info(g.inbox)['last-delivered-id']
  if not position and is_after(upto, last) then position = last end
  if not position then return end
  local rows = redis.call('XRANGE', g.base, '(' .. position, upto, 'COUNT', room)
  for _, row in ipairs(rows) do
    redis.call('XADD', g.again, '*', 'o', row[1], 'd', row[2][2], 'k', 'B')
    redis.call('HSETNX', g.meta, 'held', position)
    position = row[1]
  end
  if #rows < room then
    redis.call('HDEL', g.meta, 'base')
    if is_after(upto, last) then redis.call('XGROUP', 'SETID', g.inbox, GROUP, upto) end
  else
    redis.call('HSET', g.meta, 'base', position)
  end
end

-- What was removed ahead of the group since that was last compared.
local function missed_since(g)
  local upto, superseded, dropped = trimmed_off(g)
  local known = redis.call('HGET', g.meta, 'known')
  local is = superseded .. ' ' .. dropped
  if known == is then return 0, 0 end
  redis.call('HSET', g.meta, 'known', is)
  local s, d = string.match(known or '0 0', '^(%d+) (%d+)$')
  s, d = math.max(0, superseded - tonumber(s)), math.max(0, dropped - tonumber(d))
  redis.call('HINCRBY', g.meta, 'superseded', s)
  redis.call('HINCRBY', g.meta, 'dropped', d)
  return s, d
end

local function agent_keys_of(g)
  return {
    journal = g.own .. 'journal:' .. g.id, sent = g.own .. 'sent:' .. g.id,
    streams = g.own .. 'streams:' .. g.id, journals = g.own .. 'journals',
    agents = g.own .. 'agents', cursors = g.own .. 'cursors',
  }
end

-- The id before another one, also where its parts are more than numbers can hold.
local function id_before(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  if n == '0' then return whole(tonumber(ms) - 1) .. '-18446744073709551615' end
  local head, digit, zeros = string.match(n, '^(%d*)([1-9])(0*)$')
  local less = head .. tonumber(digit) - 1 .. string.rep('9', #zeros)
  return ms .. '-' .. (#less > 1 and string.gsub(less, '^0', '') or less)
end

-- Notes in the agent's journal what a consumer is sent: the parts of the inbox that follow each
-- other as one. What comes again counts as such.
local function note_taken(g, limits, stream_id, taken)
  local a = agent_keys_of(g)
  local since, highest = unpack(redis.call('HMGET', a.sent, COUNTER, HIGHEST))
  since, highest = tonumber(since or 0), highest or '0-0'
  local i = 1
  while i <= #taken do
    local first, last = taken[i], taken[i]
    while taken[i + 1] and taken[i + 1].run == first.run and first.run do
      i = i + 1
      last = taken[i]
    end
    local after = id_before(first.place)
    since = prepare(a, g.id, limits, since)
    local before = first.again and last.place or '0-0'
    redis.call('XADD', a.journal, '*', 's',
      table.concat({ stream_id, after, last.place, before }, ' '))
    if is_after(last.place, highest) then highest = last.place end
    i = i + 1
  end
  redis.call('HSET', a.sent, COUNTER, since, HIGHEST, highest)
end

-- Hands deliveries out.
--
-- KEYS  group
-- ARGV  agent, epoch, the most that may be outstanding, retention of the journal in ms, entries kept, "1" if
--       it is noted what is sent, the attempts after which one is parked, then for each consumer: name, stream
--       id, how many at most, for how many ms
-- Returns {} if the epoch is another one; else
--   {in how many ms the next one is due or "", whether as many are outstanding as may be, how many are
--    outstanding, superseded, dropped, removed that were missed, for each that was tried too often ref and attempts,
--    the group's position, then for each consumer: {ref, id in the inbox, attempt, "R" or "", entry, …},
--    or 0 if another stream has its name}
local function take(keys, args)
  local g = group_by_key(keys[1], args)
  local info = redis.call('HGET', g.meta, 'epoch') == args[2] and group_info(g.inbox)
  if not info then return {} end
  local most, ms = tonumber(args[3]), now_ms()
  local limits = { retention_ms = tonumber(args[4]), entries = tonumber(args[5]) }
  local tries = tonumber(args[7])
  local consumers, left = {}, 0
  for i = 8, #args, 4 do
    local is = redis.call('HGET', g.meta, 'n' .. args[i]) == args[i + 1]
    consumers[#consumers + 1] = {
      name = args[i], stream_id = args[i + 1], left = is and tonumber(args[i + 2]) or 0,
      deadline = whole(ms + tonumber(args[i + 3])), taken = {}, replaced = not is,
    }
    left = left + consumers[#consumers].left
  end
  local turn = 0
  local function next_consumer()
    for _ = 1, #consumers do
      turn = turn % #consumers + 1
      if consumers[turn].left > 0 then return consumers[turn] end
    end
  end
  local function has(consumer, ref, place, attempt, kind, body, run)
    consumer.left, left = consumer.left - 1, left - 1
    consumer.taken[#consumer.taken + 1] = {
      ref = ref, place = place, attempt = attempt, kind = kind, body = body, run = run,
      again = attempt > 1 or kind == 'R',
    }
  end

  -- What is due.
  local exhausted, lost, freed, owners = {}, 0, true, {}
  while left > 0 and freed do
    freed = false
    local due = redis.call('ZRANGEBYSCORE', g.due, '-inf', whole(ms), 'LIMIT', 0, left)
    for _, ref in ipairs(due) do
      local consumer = left > 0 and next_consumer()
      if not consumer then break end
      local owner, attempt = claim_of(g, ref)
      if owner and owner ~= WAITING then owners[owner] = true end
      if not owner then
        freed = release(g, ref) or freed
      elseif attempt >= tries then
        exhausted[#exhausted + 1] = ref
        exhausted[#exhausted + 1] = attempt
        if not put_back(g, ref, attempt, ms + PARKING_MS) then
          lost = lost + 1
          freed = removed(g, ref) or freed
        end
      else
        local stream, id = placed_at(g, ref)
        local row = redis.call('XCLAIM', stream, GROUP, consumer.name, 0, id)[1]
        if not row then
          lost = lost + 1
          freed = removed(g, ref) or freed
        elseif stream == g.again then
          redis.call('ZADD', g.due, consumer.deadline, ref)
          has(consumer, ref, row[2][2], attempt + 1, row[2][6], row[2][4])
        else
          redis.call('ZADD', g.due, consumer.deadline, ref)
          has(consumer, ref, ref, attempt + 1, '', row[2][2])
        end
      end
    end
  end

  for owner in pairs(owners) do forget(g, owner) end

  -- What is new.
  local outstanding = info.pending + group_info(g.again).pending
  local blocked, run, reader = false, 0, nil
  local function read(stream, consumer, count)
    if reader ~= consumer then run = run + 1 end
    reader = consumer
    local reply = redis.call('XREADGROUP', 'GROUP', GROUP, consumer.name, 'COUNT', count, 'STREAMS', stream, '>')
    local rows, asks, keys_of = reply and reply[1][2] or {}, {}, {}
    for i, row in ipairs(rows) do
      local kind, key = about(row[2][stream == g.again and 4 or 2])
      keys_of[i] = kind == REGISTERED and 0 or key
      if kind ~= REGISTERED and key ~= '' then asks[#asks + 1] = 'k' .. key end
    end
    local busy = lookup(g.busy, asks) -- An entry that takes another one's place is noted by itself.
    local dues, names = {}, {}
    for i, row in ipairs(rows) do
      local key, again = keys_of[i], stream == g.again
      local ref, place = (again and '+' or '') .. row[1], again and row[2][2] or row[1]
      outstanding = outstanding + 1
      if key == 0 then
        redis.call('XACK', stream, GROUP, row[1])
        if again then redis.call('XDEL', stream, row[1]) end
        outstanding = outstanding - 1
      elseif key ~= '' and busy['k' .. key] and busy['k' .. key] ~= ref then
        put_back(g, ref, 0)
        redis.call('ZADD', g.waiting, 0, waits(key, place, ref))
        run = run + 1
      else
        if key ~= '' then
          busy['k' .. key] = ref
          local n = #names
          names[n + 1], names[n + 2], names[n + 3], names[n + 4] = 'k' .. key, ref, 'r' .. ref, key
        end
        dues[#dues + 1] = consumer.deadline
        dues[#dues + 1] = ref
        has(consumer, ref, place, 1, again and row[2][6] or '', row[2][again and 4 or 2],
          not again and run)
      end
    end
    chunked('ZADD', g.due, dues)
    chunked('HSET', g.busy, names)
    return #rows
  end
  local function read_all(stream)
    -- A few each in turn: what is little is spread.
    local share, more = #consumers > 1 and 1 or left, true
    while more and left > 0 do
      for _, consumer in ipairs(consumers) do
        local count = math.min(share, consumer.left, most - outstanding)
        if outstanding >= most then
          blocked, more = true, false
        elseif more and count > 0 then
          more = read(stream, consumer, count) == count
        end
      end
      share = share * 2
    end
  end
  local in_base = left > 0 and outstanding < most
  while in_base do
    take_base(g, math.min(left, most - outstanding))
    if redis.call('XLEN', g.again) > 0 then read_all(g.again) end
    in_base = redis.call('HEXISTS', g.meta, 'base') == 1
    if left == 0 or outstanding >= most then break end
  end
  -- What was removed comes first.
  if not in_base then read_all(g.inbox) end
  if redis.call('XLEN', g.again) == 0 then redis.call('HDEL', g.meta, 'held') end

  local superseded, dropped = missed_since(g)
  local told = {}
  for i, consumer in ipairs(consumers) do
    if #consumer.taken > 0 and args[6] == '1' then
      note_taken(g, limits, consumer.stream_id, consumer.taken)
    elseif #consumer.taken == 0 and not consumer.replaced then
      -- The store notes that it has asked.
      redis.call('XREADGROUP', 'GROUP', GROUP, consumer.name, 'COUNT', 1, 'STREAMS', g.again, '18446744073709551615-0')
    end
    local flat = {}
    for _, t in ipairs(consumer.taken) do
      flat[#flat + 1] = t.ref
      flat[#flat + 1] = t.place
      flat[#flat + 1] = t.attempt
      flat[#flat + 1] = t.kind == 'R' and 'R' or ''
      flat[#flat + 1] = t.body
    end
    told[i] = consumer.replaced and 0 or flat
  end
  local due = redis.call('ZRANGE', g.due, 0, 0, 'WITHSCORES')
  local position = group_info(g.inbox)['last-delivered-id']
  return {
    due[2] and whole(math.max(0, tonumber(due[2]) - ms)) or '', blocked and 1 or 0, outstanding, superseded, dropped, lost, exhausted, position,
    unpack(told),
  }
end

-- The place up to which everything is settled.
local function settled_upto(g)
  local held = redis.call('HGET', g.meta, 'held') or redis.call('HGET', g.meta, 'base')
  local info = group_info(g.inbox)
  if held == '' then return '' end
  if info.pending == 0 then return held or info['last-delivered-id'] end
  local lowest = redis.call('XPENDING', g.inbox, GROUP)[2]
  if held and is_after(lowest, held) then return held end
  -- Asking for what is before the first entry would walk the whole stream.
  local first = redis.call('XRANGE', g.inbox, '-', '+', 'COUNT', 1)[1]
  if not first or not is_after(lowest, first[1]) then return '' end
  return redis.call('XREVRANGE', g.inbox, '(' .. lowest, '-', 'COUNT', 1)[1][1]
end

-- Says what has become of deliveries.
--
-- KEYS  group
-- ARGV  agent, epoch, the most that may be parked, retention of the journal in ms, entries kept, then for
--       each: what, consumer, ref, attempt, and
--       "n": to be tried again: after how many ms
--       "p": put aside: why, see "w" above
--       "e": the claim is to last longer: for how many ms
--       "a", acknowledged; "g", given back unseen: ""
--       "l", the consumer leaves, with its stream as ref: ""
--       "c": the agent's cursor moves to an event, as everything up to there is settled: the event, and
--            as ref the place in the inbox if it is inside of what the event brought, or ""
-- Returns {} if the epoch is another one, and only lets consumers leave; else the place up to which everything
-- is settled or "", then
-- for each: 1 done; 0 somebody else has it, or this was another attempt; 2 it is not outstanding;
-- 3 nobody has it, and this was the last attempt; 4 as many are parked as may be
local function settle(keys, args)
  local g = group_by_key(keys[1], args)
  if not group_info(g.inbox) then return {} end
  local is_over = redis.call('HGET', g.meta, 'epoch') ~= args[2]
  local most, ms, ready, done, owners = tonumber(args[3]), now_ms(), false, {}, {}
  local acks, acked = {}, {}
  for i = 6, #args, 5 do
    local what, consumer, ref, attempt, more = args[i], args[i + 1], args[i + 2], tonumber(args[i + 3]), args[i + 4]
    local result = 1
    if what == 'l' then
      if (redis.call('HGET', g.meta, 'n' .. consumer) or ref) == ref then
        redis.call('HDEL', g.meta, 'n' .. consumer)
        forget(g, consumer)
      end
    elseif is_over then
      result = 0
    elseif what == 'c' then
      local a = agent_keys_of(g)
      local agent = { a.journal, a.sent, a.streams, a.journals, a.agents, a.cursors, g.own .. 'places' }
      acknowledge_place(agent, { g.id, args[4], args[5], more, 'contex\t\t', ref })
    else
      local owner, is = claim_of(g, ref)
      local of_nobody = what == 'p' and consumer == WAITING
      if not owner or acked[ref] then
        result = 2
      elseif is ~= attempt or (owner ~= consumer) then
        result = owner == WAITING and is == attempt and 3 or 0
      elseif what == 'a' and string.byte(ref) ~= 43 then
        acks[#acks + 1], acked[ref] = ref, true
      elseif what == 'a' then
        ready = settled(g, ref) or ready
      elseif what == 'n' then
        if not put_back(g, ref, attempt, ms + tonumber(more)) then
          ready = removed(g, ref) or ready
        end
      elseif what == 'g' then
        ready = true
        if not put_back(g, ref, attempt - 1, 0) then removed(g, ref) end
      elseif what == 'e' then
        local stream, id = placed_at(g, ref)
        -- The claim on what was removed lasts as well; the store would let go of it.
        if redis.call('XRANGE', stream, id, id)[1] then
          redis.call('XCLAIM', stream, GROUP, consumer, 0, id, 'RETRYCOUNT', attempt, 'JUSTID')
        end
        redis.call('ZADD', g.due, whole(ms + tonumber(more)), ref)
      elseif what == 'p' then
        local place, body = entry_of(g, ref)
        if redis.call('XLEN', g.parked) >= most then
          result = 4
        elseif place then
          redis.call('XADD', g.parked, '*', 'o', place, 'd', body, 'n', attempt,
            'c', of_nobody and '' or consumer, 'w', more)
          ready = settled(g, ref) or ready
        else
          redis.call('HINCRBY', g.meta, 'removed', 1)
          ready = settled(g, ref) or ready
        end
      end
      if result == 1 then owners[consumer] = true end
    end
    done[#done + 1] = result
  end
  if is_over then return {} end
  ready = all_settled(g, acks) or ready
  for owner in pairs(owners) do forget(g, owner) end
  if ready then tell_servers(g) end
  return { settled_upto(g), unpack(done) }
end

-- Settles everything up to a place, whoever has it; nothing of a group that there is not.
local function settle_upto(g, place)
  local info = redis.call('HEXISTS', g.meta, 'epoch') == 1 and group_info(g.inbox)
  if not info then return end
  local ready, owners = false, {}
  for _, row in ipairs(redis.call('XRANGE', g.again, '-', '+')) do
    if not is_after(row[2][2], place) then
      local ref = '+' .. row[1]
      owners[claim_of(g, ref) or WAITING] = true
      local _, key = about(row[2][4])
      redis.call('ZREM', g.waiting, waits(key, row[2][2], ref))
      ready = settled(g, ref) or ready
    end
  end
  local rows
  repeat
    rows = redis.call('XPENDING', g.inbox, GROUP, '-', place, CHUNK)
    for _, row in ipairs(rows) do
      local ref = row[1]
      owners[row[2]] = true
      if redis.call('HEXISTS', g.busy, 'r' .. ref) == 0 and redis.call('ZCARD', g.waiting) > 0 then
        local _, body = entry_of(g, ref)
        if body then
          local _, key = about(body)
          redis.call('ZREM', g.waiting, waits(key, ref, ref))
        end
      end
      ready = settled(g, ref) or ready
    end
  until #rows < CHUNK
  for owner in pairs(owners) do forget(g, owner) end
  local base = redis.call('HGET', g.meta, 'base')
  if base and is_after(place, base) then redis.call('HSET', g.meta, 'base', place) end
  if is_after(place, info['last-delivered-id']) then
    redis.call('XGROUP', 'SETID', g.inbox, GROUP, place)
  end
  if ready then tell_servers(g) end
end

-- Moves an agent's cursor forward, and settles what its consumers have up to there.
--
-- KEYS, ARGV  of `acknowledge_place`, then the place
-- Returns as that.
local function acknowledge_group(keys, args)
  local stands = acknowledge_place(keys, args)
  if stands then settle_upto(group_of(string.sub(keys[5], 1, -7), args[1]), args[7]) end
  return stands
end

-- Moves the place from which consumers go on.
--
-- KEYS  journal … cursors, places, group
-- ARGV  agent, retention in ms, entries kept, the event, origin, the place inside of what it brought
--       or "", the place in the inbox
-- Returns how many were outstanding, or nil if there is no such agent.
local function seek(keys, args)
  local a, id = agent_keys(keys, 1), args[1]
  local own = string.sub(a.agents, 1, -7)
  local g = group_of(own, id)
  if redis.call('HEXISTS', a.agents, id) == 0 then return nil end
  begin(a, id, { retention_ms = tonumber(args[2]), entries = tonumber(args[3]) })
  local cleared, info = 0, group_info(g.inbox)
  if info then cleared = info.pending + group_info(g.again).pending end
  park_redriven(own, id)
  begin_group(g, args[7], new_epoch(g))
  redis.call('HSET', a.cursors, id, args[4])
  if args[6] == '' then
    redis.call('HDEL', keys[7], id)
  else
    redis.call('HSET', keys[7], id, args[6])
  end
  redis.call('XADD', a.journal, '*', 'a', args[4] .. ' ' .. args[4] .. '\t' .. args[5])
  tell_servers(g)
  return cleared
end

-- Sends parked deliveries on their way again, or gives them up.
--
-- KEYS  group
-- ARGV  agent, "R" or "D", then the ids
-- Returns how many there were.
local function unpark(keys, args)
  local g, found = group_by_key(keys[1], args), 0
  for i = 3, #args do
    local row = redis.call('XRANGE', g.parked, args[i], args[i])[1]
    if row then
      found = found + 1
      if args[2] == 'R' then
        redis.call('XADD', g.again, '*', 'o', row[2][2], 'd', row[2][4], 'k', 'R')
      end
      redis.call('XDEL', g.parked, args[i])
    end
  end
  if found > 0 and args[2] == 'R' then tell_servers(g) end
  return found
end

-- Adds deliveries that were parked elsewhere; again, without harm.
--
-- KEYS  parked
-- ARGV  for each: id, place in the inbox, attempts, consumer, why, entry
local function restore_parked(keys, args)
  for i = 1, #args, 6 do
    local added = redis.pcall('XADD', keys[1], args[i],
      'o', args[i + 1], 'd', args[i + 5], 'n', args[i + 2], 'c', args[i + 3], 'w', args[i + 4])
    if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
      return redis.error_reply(added.err)
    end
  end
  return 1
end

-- What consumers share, and what holds them up.
--
-- KEYS  group
-- ARGV  agent, how many deliveries that were not handed out are counted at most
-- Returns {} if nobody has ever consumed; else
--   {position, not handed out, outstanding, in `due` that nobody has, waiting, parked, superseded, dropped,
--    removed, the first place that is not settled or "", the time in unix ms,
--    {name, outstanding, ms since it last asked, ms that it has had the oldest of them, …}}
local function group_status(keys, args)
  local g = group_by_key(keys[1], args)
  local info, again = group_info(g.inbox), group_info(g.again)
  if redis.call('HEXISTS', g.meta, 'epoch') == 0 or not info then return {} end
  local most, position = tonumber(args[2]), redis.call('HGET', g.meta, 'base')
  local count, oldest = 0, nil
  local upto = trimmed_off(g)
  if not position and is_after(upto, info['last-delivered-id']) then position = info['last-delivered-id'] end
  local function count_in(stream, after, until_)
    while count <= most do
      local rows = redis.call('XRANGE', stream, '(' .. after, until_, 'COUNT', CHUNK)
      if rows[1] and (not oldest or is_after(oldest, rows[1][1])) then oldest = rows[1][1] end
      count = count + #rows
      if #rows < CHUNK then return end
      after = rows[#rows][1]
    end
  end
  if position then count_in(g.base, position, upto) end
  count_in(g.inbox, is_after(upto, info['last-delivered-id']) and upto or info['last-delivered-id'], '+')
  count = count + redis.call('XLEN', g.again) - again.pending
  for _, row in ipairs(redis.call('XRANGE', g.again, '-', '+')) do
    if not oldest or is_after(oldest, row[2][2]) then oldest = row[2][2] end
  end
  if info.pending > 0 then
    local lowest = redis.call('XPENDING', g.inbox, GROUP)[2]
    if not oldest or is_after(oldest, lowest) then oldest = lowest end
  end
  local consumers, by_name = {}, {}
  local of_nobody = 0
  for _, stream in ipairs({ g.inbox, g.again }) do
    for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
      local one = {}
      for i = 1, #row, 2 do one[row[i]] = row[i + 1] end
      if one.name == WAITING then
        of_nobody = of_nobody + one.pending
      else
        local seen = by_name[one.name]
        if not seen then
          seen = { one.name, 0, one.idle, 0 }
          by_name[one.name] = seen
          consumers[#consumers + 1] = seen
        end
        seen[2], seen[3] = seen[2] + one.pending, math.min(seen[3], one.idle)
        for _, held in ipairs(redis.call('XPENDING', stream, GROUP, '-', '+', CHUNK, one.name)) do
          seen[4] = math.max(seen[4], held[3])
        end
      end
    end
  end
  local flat = {}
  for _, one in ipairs(consumers) do
    for i = 1, 4 do flat[#flat + 1] = one[i] end
  end
  local waiting = redis.call('ZCARD', g.waiting)
  local missed = redis.call('HMGET', g.meta, 'superseded', 'dropped', 'removed')
  return {
    position or info['last-delivered-id'], count, info.pending + again.pending, of_nobody - waiting, waiting,
    redis.call('XLEN', g.parked), tonumber(missed[1] or 0), tonumber(missed[2] or 0),
    tonumber(missed[3] or 0), oldest or '', whole(now_ms()), flat,
  }
end

-- Consuming goes on while the store is full: what it takes is bounded, and settling gives back.
redis.register_function{ function_name = 'contex1_open_group', callback = open_group, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'contex1_take', callback = take, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'contex1_settle', callback = settle, flags = { 'allow-oom' } }
redis.register_function('contex1_park', settle)
redis.register_function('contex3_acknowledge', acknowledge_group)
redis.register_function('contex1_seek', seek)
redis.register_function('contex1_unpark', unpark)
redis.register_function('contex1_restore_parked', restore_parked)
redis.register_function{ function_name = 'contex1_group_status', callback = group_status, flags = { 'no-writes' } }
