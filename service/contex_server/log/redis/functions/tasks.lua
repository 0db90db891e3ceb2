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
-- Returns 1, or 0 if there is one at the sequence or after it.
local function snapshot(keys, args)
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

redis.register_function('contex1_claim', claim)
redis.register_function{ function_name = 'contex1_state_now', callback = state_now, flags = { 'no-writes' } }
redis.register_function('contex1_snapshot', snapshot)
