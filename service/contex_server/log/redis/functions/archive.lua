-- Which of a project's events are in the archive, in the hash <archive>:
--   segments, events, bytes, size  counts and sizes, see log/archive.py
--   first, last                    what can be read there
--   moved                          bytes of all events that were ever archived
--   removed                        how many events are gone for good
--   rewrites                       how often a segment was replaced
--   compacted                      how many events lost their payloads to compactions
--   compaction                     the last pass: "<keep> <segments> <looked> <last>"
--   directory, digest, remains     the last being "<last> <line>" of a segment as below
-- and its segments in the stream <segments>, each with the sequence of its last event as id
-- and one field "r": "<ordinal> <first> <events> <bytes> <size> <index offset> <digest> <name>".

-- Events of a stream that are not there any more.
local function missing(events)
  local info = stream_info(events)
  return (info['entries-added'] or 0) - (info['length'] or 0)
end

local function words(line)
  local found = {}
  for word in string.gmatch(line, '%S+') do found[#found + 1] = word end
  return found
end

local function owns(task, owner)
  return redis.call('GET', task) == owner
end

-- KEYS  task, archive, segments, events
-- ARGV  owner, ordinal, directory, last, first, events, bytes, size, digest, line, how many
--       events before the first segment are gone for good, or "": as the stream tells
-- Returns 1, or 0 if the task is somebody else's or the segment is not the next.
local function add_segment(keys, args)
  if not owns(keys[1], args[1]) then return 0 end
  local archive = keys[2]
  if redis.call('HEXISTS', archive, 'segments') == 0 then
    if args[11] == '' then
      if args[2] ~= '0' then return 0 end
      args[11] = missing(keys[4])
    end
    redis.call('HSET', archive, 'directory', args[3], 'removed', args[11], 'segments', args[2])
  end
  if redis.call('HGET', archive, 'segments') ~= args[2] then return 0 end
  redis.call('HSETNX', archive, 'first', args[5])
  redis.call('XADD', keys[3], args[4], 'r', args[10])
  redis.call('HINCRBY', archive, 'segments', 1)
  redis.call('HINCRBY', archive, 'events', args[6])
  redis.call('HINCRBY', archive, 'bytes', args[7])
  redis.call('HINCRBY', archive, 'moved', args[7])
  redis.call('HINCRBY', archive, 'size', args[8])
  redis.call('HSET', archive, 'last', args[4], 'digest', args[9])
  return 1
end

-- The segments are written anew into another stream that takes the place of theirs: an entry
-- can't be changed.
--
-- KEYS  task, archive, segments, a name for the other stream
-- ARGV  owner, last, bytes, size, digest, line
local function replace_segment(keys, args)
  if not owns(keys[1], args[1]) then return 0 end
  local rows, found = redis.call('XRANGE', keys[3], '-', '+'), false
  redis.call('DEL', keys[4])
  for _, row in ipairs(rows) do
    local line = row[2][2]
    if row[1] == args[2] then
      local fields = words(line)
      redis.call('HINCRBY', keys[2], 'bytes', tonumber(args[3]) - tonumber(fields[4]))
      redis.call('HINCRBY', keys[2], 'size', tonumber(args[4]) - tonumber(fields[5]))
      line, found = args[6], true
    end
    redis.call('XADD', keys[4], row[1], 'r', line)
  end
  if not found then
    redis.call('DEL', keys[4])
    return 0
  end
  redis.call('RENAME', keys[4], keys[3])
  redis.call('HINCRBY', keys[2], 'rewrites', 1)
  if redis.call('HGET', keys[2], 'last') == args[2] then
    redis.call('HSET', keys[2], 'digest', args[5])
  end
  return 1
end

-- KEYS  task, archive
-- ARGV  owner, remains
local function replace_remains(keys, args)
  if not owns(keys[1], args[1]) then return 0 end
  redis.call('HSET', keys[2], 'remains', args[2])
  redis.call('HINCRBY', keys[2], 'rewrites', 1)
  return 1
end

-- KEYS  task, archive, segments, a name for the other stream, retention, audit
-- ARGV  owner, the retention that asked for it, compaction, how many events it compacted, action,
--       retention of audit records in ms, then, if it made another object, "segment", the line of
--       the one before and what replace_segment takes after the owner, or "remains", the remains
--       before and now
-- Returns 1, or 0 if the task is somebody else's, or the retention or the object is another.
local function compact(keys, args)
  if not owns(keys[1], args[1]) then return 0 end
  if (redis.call('GET', keys[5]) or '') ~= args[2] then return 0 end
  if args[7] == 'segment' then
    local row = redis.call('XRANGE', keys[3], args[9], args[9])[1]
    if not row or row[2][2] ~= args[8] then return 0 end
    replace_segment(keys, { args[1], args[9], args[10], args[11], args[12], args[13] })
  elseif args[7] == 'remains' then
    if redis.call('HGET', keys[2], 'remains') ~= args[8] then return 0 end
    replace_remains(keys, { args[1], args[9] })
  end
  if args[7] then
    redis.call('HINCRBY', keys[2], 'compacted', args[4])
    record(keys[6], now(), tonumber(args[6]), 'x', args[5])
  end
  redis.call('HSET', keys[2], 'compaction', args[3])
  return 1
end

-- KEYS  task, archive, segments, audit
-- ARGV  owner, first, remains, what first was, action, retention of audit records in ms
local function remove_segments(keys, args)
  if not owns(keys[1], args[1]) then return 0 end
  if redis.call('HGET', keys[2], 'first') ~= args[4] then return 0 end
  for _, row in ipairs(redis.call('XRANGE', keys[3], '-', '(' .. args[2])) do
    local fields = words(row[2][2])
    redis.call('HINCRBY', keys[2], 'events', -fields[3])
    redis.call('HINCRBY', keys[2], 'removed', fields[3])
    redis.call('HINCRBY', keys[2], 'bytes', -fields[4])
    redis.call('HINCRBY', keys[2], 'size', -fields[5])
  end
  redis.call('XTRIM', keys[3], 'MINID', args[2])
  redis.call('HSET', keys[2], 'first', args[2], 'remains', args[3])
  record(keys[4], now(), tonumber(args[6]), 'x', args[5])
  return 1
end

-- KEYS  archive, events
-- ARGV  the last to be removed, the first to be kept, how many at most, or "": all
-- Returns how many were removed; none where they are not archived, or, with a limit, where
-- only some of a node of the stream is left.
local function trim(keys, args)
  local last = redis.call('HGET', keys[1], 'last')
  if not last or is_after(args[1], last) then return 0 end
  if args[3] ~= '' then
    return redis.call('XTRIM', keys[2], 'MINID', '~', args[2], 'LIMIT', args[3])
  end
  return redis.call('XTRIM', keys[2], 'MINID', '=', args[2])
end

redis.register_function('contex1_add_segment', add_segment)
redis.register_function('contex1_replace_segment', replace_segment)
redis.register_function('contex1_replace_remains', replace_remains)
redis.register_function('contex1_compact', compact)
redis.register_function('contex1_remove_segments', remove_segments)
redis.register_function('contex1_trim', trim)
