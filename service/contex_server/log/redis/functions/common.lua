#!lua name=contex1

-- The write side of the log: these files, joined, are one library. Every function is
-- atomic: it checks first, then writes, so a refused append leaves nothing behind (but the
-- vectors of its texts, which are true of the texts whoever publishes them). The store
-- refuses to start a function when its memory limit is reached, so none stops half-way.
--
-- An event lies in the stream as one field "e": the serialised contex.v1.Event as
-- the server sent it, followed by the fields that are only known here. Protobuf
-- allows fields in any order, so appending bytes is enough.
local TAG_REVISION = '\72' -- field 9, varint: 9 * 8
local TAG_PREVIOUS_SEQUENCE = '\82' -- field 10, bytes: 10 * 8 + 2
local TAG_TEXT_DIGEST = '\90' -- field 11, bytes: 11 * 8 + 2
local TAG_VALID_UNTIL = '\122' -- field 15, a google.protobuf.Timestamp: 15 * 8 + 2

-- Values of the state hash: "<revision> <sequence> <mark><digest>". The mark is D of a key that
-- is deleted. Of a live one it tells what is known of its description: that it has (N)one, that
-- the hash <descriptions> (K)nows it, or L: only its latest event tells.
local STATE = '^(%d+) (%S+) (.)(.*)$'

-- The kinds of an agent's keys that hold what was decided for it, and what its consumers share; see
-- functions/inboxes.lua and functions/groups.lua.
local GROUP_KINDS = { 'again:', 'due:', 'busy:', 'waiting:', 'group:', 'parked:' }
local DECIDED_KINDS = {
  'inbox:', 'base:', 'base-new:', 'again:', 'due:', 'busy:', 'waiting:', 'group:', 'parked:',
}

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

-- The numbers up to 999 as they are written, and with zeros in front of them. They are filled as they
-- are needed: writing a number costs as much as five lookups.
local WRITTEN, PADDED = {}, {}

local function written_below_1000(n)
  local text = WRITTEN[n]
  if not text then
    text = string.format('%.0f', n)
    WRITTEN[n], PADDED[n] = text, string.format('%03.0f', n)
  end
  return text
end

-- A whole number, also beyond the 14 digits that Lua writes by itself.
local function whole(n)
  if n >= 0 and n < 1000 then return WRITTEN[n] or written_below_1000(n) end
  if n >= 1000 and n < 1000000 then
    local rest = n % 1000
    local text = PADDED[rest]
    if not text then
      written_below_1000(rest)
      text = PADDED[rest]
    end
    local thousands = (n - rest) / 1000
    return (WRITTEN[thousands] or written_below_1000(thousands)) .. text
  end
  return string.format('%.0f', n)
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

-- The values of fields of a hash, in their places; false where there is none.
local function fetch(key, fields)
  if #fields == 0 then return fields end
  if #fields <= CHUNK then return redis.call('HMGET', key, unpack(fields)) end
  local values = {}
  for from = 1, #fields, CHUNK do
    local upto = math.min(from + CHUNK - 1, #fields)
    for i, value in ipairs(redis.call('HMGET', key, unpack(fields, from, upto))) do
      values[from + i - 1] = value
    end
  end
  return values
end

local function split(sequence)
  local ms, n = string.match(sequence, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end

-- Whether a sequence is after another; halves of up to 64 bits, which numbers can't hold.
local function is_after(one, other)
  local a, b = { string.match(one, '^(%d+)-(%d+)$') }, { string.match(other, '^(%d+)-(%d+)$') }
  for i = 1, 2 do
    if #a[i] ~= #b[i] then return #a[i] > #b[i] end
    if a[i] ~= b[i] then return a[i] > b[i] end
  end
  return false
end

-- Adds a line to a stream of records, which lets go of what is older than its retention,
-- 0 meaning never.
local function record(stream, now_s, retention_ms, ...)
  if retention_ms > 0 then
    return redis.call('XADD', stream, 'MINID', '~', whole(now_s * 1000 - retention_ms), '*', ...)
  end
  return redis.call('XADD', stream, '*', ...)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function now()
  return math.floor(now_ms() / 1000)
end

-- What the store says of a stream, by name; nothing of one that there is not.
local function stream_info(key)
  local info, found = redis.pcall('XINFO', 'STREAM', key), {}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  return found
end

-- The newest sequence that a stream ever had.
local function tail_of(key)
  return stream_info(key)['last-generated-id'] or '0-0'
end

-- The sequence that ends what was a project before it was deleted; see functions/projects.lua. `key`
-- is one of the project's, of a kind.
local function deleted_upto(key, kind)
  local own = string.sub(key, 1, #key - #kind)
  return redis.call('HGET', own .. 'deletions', 'last') or '0-0'
end

-- Tells the servers that follow projects of a bucket that one has new events, and perhaps which: see
-- `told` in functions/projects.lua. Where the store's account may not publish, they notice when they
-- look by themselves; nothing may fail after XADD.
local function announce(events, message)
  local channel = string.match(events, '^(ctx:{%d+}):p:') .. ':appended'
  local listening = redis.pcall('PUBSUB', 'SHARDNUMSUB', channel)
  if listening[2] ~= 0 then redis.pcall('SPUBLISH', channel, message) end
end
