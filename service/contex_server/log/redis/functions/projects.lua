-- What is counted as events are appended: by data key, type and publisher, and, by
-- deliveries, by need; for each minute.
--
-- A hash "<activity>:<hours since 1970>" holds one hour. Its fields are a dimension's letter
-- and a name, its values "<minute>:<count> …", newest minute first. When the hour is over,
-- `roll_up` adds it to hashes "<activity>:<dimension>:<days since 1970>" whose values are
-- "<hour of the day>:<count> …", and lets it expire. Hours that are not rolled up yet are in
-- the set <open>. The names of the hashes follow from the time, which only the store knows;
-- they share the hash tag of the declared key.
local MINUTES_KEPT_MS = 8 * 24 * 3600 * 1000

-- Adds `counts` of a slot to values that are written newest slot first. Returns whether there were
-- none yet.
local function add_up(key, slot, counts)
  local sub, match = string.sub, string.match
  local names, values, fresh = {}, {}, true
  for name in pairs(counts) do names[#names + 1] = name end
  if #names == 0 then return false end
  local head = whole(slot) .. ':'
  local size = #head
  for i, before in ipairs(fetch(key, names)) do
    local name = names[i]
    local n, rest = counts[name], ''
    if before then
      fresh = false
      if sub(before, 1, size) == head then
        local m = match(before, '^%d+', size + 1)
        n, rest = n + m, sub(before, size + #m + 1)
      else
        rest = ' ' .. before
      end
    end
    values[2 * i - 1], values[2 * i] = name, head .. whole(n) .. rest
  end
  chunked('HSET', key, values)
  return fresh
end

local function count_minute(activity, open, ms, counts)
  local minutes = math.floor(ms / 60000)
  local hour = math.floor(minutes / 60)
  if add_up(activity .. ':' .. hour, minutes % 60, counts) then
    redis.call('SADD', open, hour)
  end
end

-- Adds counts of an hour that is over to its day. Counts that are there already stay, so a
-- call may be repeated.
--
-- KEYS  day
-- ARGV  hour of the day, then for each name: name, count
local function roll_up(keys, args)
  local slot, names, values = args[1], {}, {}
  for i = 2, #args, 2 do names[#names + 1] = args[i] end
  local held = lookup(keys[1], names)
  for i = 2, #args, 2 do
    local before = held[args[i]]
    if not before or string.match(before, '^%d+') ~= slot then
      values[#values + 1] = args[i]
      values[#values + 1] = slot .. ':' .. args[i + 1] .. (before and ' ' .. before or '')
    end
  end
  chunked('HSET', keys[1], values)
  return 1
end

-- Ends the roll-up of an hour.
--
-- KEYS  activity, open
-- ARGV  hours since 1970
local function rolled_up(keys, args)
  redis.call('SREM', keys[2], args[1])
  redis.call('PEXPIRE', keys[1] .. ':' .. args[1], MINUTES_KEPT_MS)
  return 1
end

local function tally()
  return {
    events = 0, bytes = 0, largest = 0, deleted = 0, keys = {}, types = {}, publishers = {}, told = {},
  }
end

-- The most bytes of events that are announced with the events themselves: they reach a server that
-- follows sooner, and go to replicas twice.
local TOLD_BYTES = 16 * 1024

local function counted(tallied, placed, body, name, kind, publisher)
  local keys, types, publishers = tallied.keys, tallied.types, tallied.publishers
  local bytes, told = #body, tallied.told
  tallied.events = tallied.events + 1
  tallied.bytes = tallied.bytes + bytes
  tallied.largest = math.max(tallied.largest, bytes)
  if tallied.bytes <= TOLD_BYTES then
    told[#told + 1] = placed .. ' ' .. whole(bytes)
    told[#told + 1] = body
  end
  if name ~= '' then keys[name] = (keys[name] or 0) + 1 end
  types[kind] = (types[kind] or 0) + 1
  publishers[publisher] = (publishers[publisher] or 0) + 1
end

-- What is announced of a project's new events: "<project> <bytes of all that it ever had> <how many are
-- in the stream> <bytes of the new ones> <how many they are>", then, unless they are large, for each
-- "\n<sequence> <bytes>\n<body>". To whoever knows of other bytes or events before them, others are
-- missing.
local function announcement(events, bytes, tallied)
  local head = string.match(events, '^ctx:{%d+}:p:(.*):events$')
    .. ' ' .. whole(bytes) .. ' ' .. redis.call('XLEN', events)
    .. ' ' .. whole(tallied.bytes) .. ' ' .. tallied.events
  if #tallied.told ~= 2 * tallied.events then return head end
  return head .. '\n' .. table.concat(tallied.told, '\n')
end

-- Adds to what is counted of a project at all, and announces its events; `first` is the sequence of
-- the first of them, which are in the stream already. `largest` is the size of the largest event that ever
-- came into the stream, by which readers choose how to read; a project that had events before
-- that was noted has none.
local function count_project(events, stats, tallied, first)
  local bytes = redis.call('HINCRBY', stats, 'bytes', tallied.bytes)
  local largest = redis.call('HGET', stats, 'largest')
  if bytes == tallied.bytes or (largest and tallied.largest > tonumber(largest)) then
    redis.call('HSET', stats, 'largest', whole(tallied.largest))
  end
  if tallied.deleted ~= 0 then redis.call('HINCRBY', stats, 'deleted', tallied.deleted) end
  if bytes == tallied.bytes then
    local alone = stream_info(events)['entries-added'] == tallied.events
    redis.call('HSET', stats, 'since', alone and '0-0' or first)
    local bucket, project = string.match(events, '^(ctx:{%d+}):p:(.*):events$')
    redis.call('SADD', bucket .. ':projects', project)
  end
  announce(events, announcement(events, bytes, tallied))
end

-- Writes what was tallied; `first` is the sequence of the first event.
local function count(events, stats, activity, open, tallied, first)
  if tallied.events == 0 then return end
  count_project(events, stats, tallied, first)
  local counts = {}
  for name, n in pairs(tallied.keys) do counts['k' .. name] = n end
  for name, n in pairs(tallied.types) do counts['t' .. name] = n end
  for name, n in pairs(tallied.publishers) do counts['p' .. name] = n end
  local ms = split(first)
  count_minute(activity, open, ms, counts)
end

-- Adds an event that the service writes about itself, about no data key.
--
-- keys: events, stats, activity, open
local function add_alone(keys, body, kind)
  local placed = redis.call('XADD', keys[1], '*', 'e', body)
  local tallied = tally()
  counted(tallied, placed, body, '', kind, '')
  count(keys[1], keys[2], keys[3], keys[4], tallied, placed)
  return placed
end

-- KEYS  retention, audit
-- ARGV  value, action, retention of audit records in ms
local function put_retention(keys, args)
  redis.call('SET', keys[1], args[1])
  record(keys[2], now(), tonumber(args[3]), 'x', args[2])
  return 1
end

-- Deletes a project: everything of it takes another name, under which it is then removed piece by
-- piece. Only the audit stays, and in the hash <deletions>, for good:
--   last            the sequence that ends what the project was: all later ones are greater
--   deletion        who deleted it last, when and why
--   r:<request id>  the same, of each request
-- So a project exists if the newest sequence of its log is after <last>.
--
-- KEYS  events, deletions, retention, audit
-- ARGV  request id, the retention as it was when nothing held the project, action for the audit,
--       retention of audit records in ms, identity, reason, name of the deleted project without
--       the sequence that ends it, then the kinds of keys that are known
-- Returns what is kept of the request; 0 if the retention is another, nil if there is no such
-- project.
local function delete_project(keys, args)
  local events, deletions, request = keys[1], keys[2], 'r:' .. args[1]
  local answered = redis.call('HGET', deletions, request)
  if answered then return answered end
  local info = stream_info(events)
  local tail, last = info['last-generated-id'] or '0-0', redis.call('HGET', deletions, 'last') or '0-0'
  if not is_after(tail, last) then return nil end
  if (redis.call('GET', keys[3]) or '') ~= args[2] then return 0 end

  local own = string.match(events, '^(.*:)events$')
  local ms = now_ms()
  last = whole(ms) .. '-0'
  if not is_after(last, tail) then last = whole(split(tail) + 1) .. '-0' end
  local count = info['length']
  if redis.call('HEXISTS', own .. 'archive', 'first') == 1 then
    count = info['entries-added'] - tonumber(redis.call('HGET', own .. 'archive', 'removed') or 0)
  end

  local kinds = {}
  for i = 8, #args do kinds[#kinds + 1] = args[i] end
  for _, hour in ipairs(redis.call('SMEMBERS', own .. 'activity-open')) do
    kinds[#kinds + 1] = 'activity:' .. hour
  end
  for _, back in ipairs({ 0, 1 }) do
    for _, dimension in ipairs({ 'k', 't', 'p', 'n' }) do
      kinds[#kinds + 1] = 'activity:' .. dimension .. ':' .. math.floor(ms / 86400000) - back
    end
  end
  for _, id in ipairs(redis.call('SMEMBERS', own .. 'journals')) do
    for _, kind in ipairs({ 'journal:', 'sent:', 'streams:', unpack(DECIDED_KINDS) }) do
      kinds[#kinds + 1] = kind .. id
    end
  end
  -- Also of agents that came with an import, and have no journal here yet.
  for _, id in ipairs(redis.call('HKEYS', own .. 'decided')) do
    for _, kind in ipairs(DECIDED_KINDS) do kinds[#kinds + 1] = kind .. id end
  end
  local bucket, name = string.match(own, '^(ctx:{%d+}):p:(.*):$')
  local gone = args[7] .. last
  for _, kind in ipairs(kinds) do
    if redis.call('EXISTS', own .. kind) == 1 then
      redis.call('RENAME', own .. kind, bucket .. ':p:' .. gone .. ':' .. kind)
    end
  end
  redis.call('SREM', bucket .. ':projects', name)
  redis.call('SADD', bucket .. ':projects', gone)
  redis.call('ZREM', bucket .. ':expiring', name)
  redis.call('ZREM', bucket .. ':leases', name)

  redis.call('XADD', events, 'MAXLEN', '=', 0, last, 'e', '')
  redis.call('XSETID', events, last, 'ENTRIESADDED', 0, 'MAXDELETEDID', last)
  local deletion = cjson.encode({
    ms = ms, identity = args[5], request_id = args[1], reason = args[6], events = count, last = last,
  })
  redis.call('HSET', deletions, 'last', last, 'deletion', deletion, request, deletion)
  record(keys[4], now(), tonumber(args[4]), 'x', args[3])
  return deletion
end

redis.register_function('contex1_delete_project', delete_project)
redis.register_function('contex1_roll_up', roll_up)
redis.register_function('contex1_rolled_up', rolled_up)
redis.register_function('contex1_put_retention', put_retention)
