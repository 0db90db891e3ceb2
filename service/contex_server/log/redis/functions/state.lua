-- The whole state, and the sequence that it is as of: the two are of one moment.
--
-- KEYS  events, state
-- ARGV  how many keys at most
-- Returns {sequence, {data key, value, …}}, or nil if there are more keys.
local function state_now(keys, args)
  if redis.call('HLEN', keys[2]) > tonumber(args[1]) then return nil end
  return { tail_of(keys[1]), redis.call('HGETALL', keys[2]) }
end

-- Stores a snapshot of the state as of a sequence, and its line in the list of snapshots,
-- which has the sequences as its ids.
--
-- KEYS  snapshots, snapshot-data, stats
-- ARGV  sequence, the snapshot, "<events> <bytes> <keys>"
-- Returns 1, or 0 if there is one at the sequence or after it, or the project was deleted after it.
local function snapshot(keys, args)
  if not is_after(args[1], deleted_upto(keys[1], 'snapshots')) then return 0 end
  local newest = redis.call('XREVRANGE', keys[1], '+', '-', 'COUNT', 1)[1]
  if newest then
    local ms, n = split(newest[1])
    local wanted_ms, wanted_n = split(args[1])
    if wanted_ms < ms or (wanted_ms == ms and wanted_n <= n) then return 0 end
  end
  redis.call('HSET', keys[2], args[1], args[2])
  redis.call('XADD', keys[1], args[1], 's', args[3] .. ' ' .. #args[2])
  redis.call('HINCRBY', keys[3], 'snapshots', 1)
  redis.call('HINCRBY', keys[3], 'snapshot_bytes', #args[2])
  return 1
end

-- KEYS  snapshots, snapshot-data
-- ARGV  the last to be removed
-- Returns how many were removed.
local function drop_snapshots(keys, args)
  local newest = redis.call('XREVRANGE', keys[1], '+', '-', 'COUNT', 1)[1]
  if not newest then return 0 end
  local gone = {}
  for _, row in ipairs(redis.call('XRANGE', keys[1], '-', args[1])) do
    if row[1] ~= newest[1] then gone[#gone + 1] = row[1] end
  end
  chunked('XDEL', keys[1], gone)
  chunked('HDEL', keys[2], gone)
  return #gone
end

-- Makes the state, and what is counted of it, what it should be.
--
-- KEYS  events, state, stats
-- ARGV  the tail as it must be, the counter of deleted keys or "", then data keys, and their
--       values or "" for none
-- Returns 1, or 0 if the tail is another.
local function repair_state(keys, args)
  if tail_of(keys[1]) ~= args[1] then return 0 end
  if args[2] ~= '' then redis.call('HSET', keys[3], 'deleted', args[2]) end
  for i = 3, #args, 2 do
    if args[i + 1] == '' then
      redis.call('HDEL', keys[2], args[i])
    else
      redis.call('HSET', keys[2], args[i], args[i + 1])
    end
  end
  return 1
end

redis.register_function{ function_name = 'contex1_state_now', callback = state_now, flags = { 'no-writes' } }
redis.register_function('contex1_snapshot', snapshot)
redis.register_function('contex1_drop_snapshots', drop_snapshots)
redis.register_function('contex1_repair_state', repair_state)
