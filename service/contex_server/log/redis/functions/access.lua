-- Who may do what: records by name, and the version with which each changed last, so that every
-- server reads what is new to it.

-- What changed after a version.
--
-- KEYS  access, changes, version
-- ARGV  version
-- Returns the version now, then the name and the content of each record, "" of one that is gone.
local function access_changed(keys, args)
  local found = { redis.call('GET', keys[3]) or '0' }
  if found[1] == args[1] then return found end
  local names = redis.call('ZRANGEBYSCORE', keys[2], '(' .. args[1], '+inf')
  for first = 1, #names, CHUNK do
    local part = { unpack(names, first, math.min(first + CHUNK - 1, #names)) }
    local values = redis.call('HMGET', keys[1], unpack(part))
    for i, name in ipairs(part) do
      found[#found + 1] = name
      found[#found + 1] = values[i] or ''
    end
  end
  return found
end

-- Changes records together, if all of them are as the writer knows them.
--
-- KEYS  access, changes, version, audit
-- ARGV  action for the audit, retention of audit records in ms, then for each record: name, content
--       as the writer knows it, new content; "" for a record that is not there
-- Returns the version, or nil if a record is another.
local function access_write(keys, args)
  for i = 3, #args, 3 do
    if (redis.call('HGET', keys[1], args[i]) or '') ~= args[i + 1] then return nil end
  end
  local version = redis.call('INCR', keys[3])
  for i = 3, #args, 3 do
    if args[i + 2] == '' then
      redis.call('HDEL', keys[1], args[i])
    else
      redis.call('HSET', keys[1], args[i], args[i + 2])
    end
    redis.call('ZADD', keys[2], version, args[i])
  end
  record(keys[4], now(), tonumber(args[2]), 'x', args[1])
  return version
end

-- Notes when keys were used last.
--
-- KEYS  used
-- ARGV  for each key: its id, a time
local function access_used(keys, args)
  for i = 1, #args, 2 do
    local before = tonumber(redis.call('HGET', keys[1], args[i]) or '0')
    if tonumber(args[i + 1]) > before then redis.call('HSET', keys[1], args[i], args[i + 1]) end
  end
  return 1
end

redis.register_function {
  function_name = 'contex1_access_changed', callback = access_changed, flags = { 'no-writes' },
}
-- A key has to be revocable while the store is full.
redis.register_function{ function_name = 'contex1_access_write', callback = access_write, flags = { 'allow-oom' } }
redis.register_function('contex1_access_used', access_used)
