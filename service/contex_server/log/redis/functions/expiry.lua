-- Facts that expire. The sorted set <expiring> of a project has "<sequence> <data key>" of each
-- revision that is the latest of its key and says until when it is valid, by that time in unix ms;
-- that of a bucket has the projects by the first of their times. A member whose sequence is not the
-- key's latest is void: servers that know nothing of expiry leave such.

local EXPIRED = 'data_expired'
local EXPIRED_HEAD = '\18\12' .. EXPIRED -- field 2, bytes: 2 * 8 + 2, and its length
local TAG_DATA_KEY = '\26' -- field 3, bytes: 3 * 8 + 2

-- Tells the bucket when the first member of a project's sorted set is due, by default the first fact
-- that expires; not of a project that is out of sight.
local function schedule(due, kind)
  kind = kind or 'expiring'
  local bucket, name = string.match(due, '^(ctx:{%d+}):p:(.*):' .. kind .. '$')
  if string.find(name, '~', 1, true) then return end
  local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', bucket .. ':' .. kind, first[2], name)
  else
    redis.call('ZREM', bucket .. ':' .. kind, name)
  end
end

-- Notes until when the latest revisions of some keys are valid, in place of those before.
--
-- was: {"<sequence> <data key>", …}, the revisions before, also those that last
-- now_valid: {unix ms, "<sequence> <data key>", …}
local function put_validity(expiring, was, now_valid)
  if #was == 0 and #now_valid == 0 then return end
  chunked('ZREM', expiring, was)
  chunked('ZADD', expiring, now_valid)
  schedule(expiring)
end

-- What an append says of an event's validity: "+<ms>" for so long, "<unix ms>" up to a time to come,
-- "=<unix ms>" up to a time that its body says already and that may have passed, or "": it lasts.
-- Returns the time or nil, and the sign.
local function validity_of(text, time_ms)
  if not text or text == '' then return nil end
  local sign, ms = string.match(text, '^([+=]?)(%d+)$')
  return sign == '+' and time_ms + tonumber(ms) or tonumber(ms), sign
end

-- The field that says until when an event is valid.
local function validity_field(ms)
  local seconds, rest = math.floor(ms / 1000), ms % 1000
  local value = '\8' .. varint(seconds)
  if rest > 0 then value = value .. '\16' .. varint(rest * 1000000) end
  return TAG_VALID_UNTIL .. varint(#value) .. value
end

-- Appends the event that a revision has expired, for those whose time has come. What a later event
-- has replaced is forgotten without one, so that each revision expires once, whoever calls.
--
-- KEYS  events, stats, activity, activity-open, audit, state, descriptions, expiring
-- ARGV  how many at most, origin, retention of audit records in ms
-- Returns {how many expired, whether there may be more}
local function expire(keys, args)
  local events, state, expiring, most = keys[1], keys[6], keys[8], tonumber(args[1])
  local time_ms = now_ms()
  local due = redis.call(
    'ZRANGE', expiring, '-inf', whole(time_ms), 'BYSCORE', 'LIMIT', 0, whole(most))
  local names = {}
  for i, member in ipairs(due) do names[i] = string.match(member, '^%S+ (.*)$') end
  local held, tallied, first = lookup(state, names), tally(), nil
  local values, gone = {}, {}
  for i, member in ipairs(due) do
    local name = names[i]
    local revision, sequence, mark, digest = string.match(held[name] or '', STATE)
    if sequence == string.match(member, '^%S+') and mark ~= 'D' then
      local count_now = tonumber(revision) + 1
      local body = EXPIRED_HEAD .. TAG_DATA_KEY .. varint(#name) .. name
        .. TAG_REVISION .. varint(count_now)
        .. TAG_PREVIOUS_SEQUENCE .. varint(#sequence) .. sequence
      if digest ~= '' then body = body .. TAG_TEXT_DIGEST .. varint(#digest) .. digest end
      local placed = redis.call('XADD', events, '*', 'e', body)
      first = first or placed
      counted(tallied, placed, body, name, EXPIRED, '')
      tallied.deleted = tallied.deleted + 1
      values[#values + 1] = name
      values[#values + 1] = whole(count_now) .. ' ' .. placed .. ' D' .. digest
      gone[#gone + 1] = name
    end
  end
  chunked('HSET', state, values)
  chunked('HDEL', keys[7], gone)
  count(events, keys[2], keys[3], keys[4], tallied, first)
  if first then
    local line = first .. ' ' .. #gone .. ' \t' .. args[2]
    record(keys[5], math.floor(time_ms / 1000), tonumber(args[3]), 'p', line)
  end
  chunked('ZREM', expiring, due)
  schedule(expiring)
  return { #gone, #due == most and 1 or 0 }
end

-- Makes the times at which facts expire what they should be.
--
-- KEYS  events, expiring
-- ARGV  the tail as it must be, then "<sequence> <data key>" and the time in unix ms or "" for none
-- Returns 1, or 0 if the tail is another.
local function repair_expiring(keys, args)
  if tail_of(keys[1]) ~= args[1] then return 0 end
  for i = 2, #args, 2 do
    if args[i + 1] == '' then
      redis.call('ZREM', keys[2], args[i])
    else
      redis.call('ZADD', keys[2], args[i + 1], args[i])
    end
  end
  schedule(keys[2])
  return 1
end

redis.register_function('contex1_expire', expire)
redis.register_function('contex1_repair_expiring', repair_expiring)
