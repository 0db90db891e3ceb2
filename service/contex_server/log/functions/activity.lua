-- What is counted as events are appended: in all, and by minute of the hour and hour of the
-- day, for each data key, type and publisher (and, by deliveries, for each need).
--
-- A hash holds one hour or one day of one dimension: "<activity>:<dimension>:h<hours since
-- 1970>" or "…:d<days since 1970>". A value is "<slot>:<count> …", newest slot first, slots
-- being minutes or hours. Hashes of hours expire, those of days stay. Their names follow
-- from the time, which only the store knows; they share the hash tag of the declared key.
local MINUTES_KEPT_MS = 8 * 24 * 3600 * 1000

local function count_in(key, slot, counts, ttl_ms)
  local names, values = {}, {}
  for name in pairs(counts) do names[#names + 1] = name end
  if #names == 0 then return end
  local held = lookup(key, names)
  for _, name in ipairs(names) do
    local n, before = counts[name], held[name]
    if before then
      local last, m = string.match(before, '^(%d+):(%d+)')
      if tonumber(last) == slot then
        n = n + tonumber(m)
        before = string.sub(before, #last + #m + 3)
        if before == '' then before = nil end
      end
    end
    values[#values + 1] = name
    values[#values + 1] = slot .. ':' .. whole(n) .. (before and ' ' .. before or '')
  end
  chunked('HSET', key, values)
  if ttl_ms and next(held) == nil then redis.call('PEXPIRE', key, ttl_ms) end
end

local function count_by(activity, dimension, ms, counts)
  local minutes = math.floor(ms / 60000)
  local hours = math.floor(minutes / 60)
  local days = math.floor(hours / 24)
  local prefix = activity .. ':' .. dimension .. ':'
  count_in(prefix .. 'h' .. hours, minutes % 60, counts, MINUTES_KEPT_MS)
  count_in(prefix .. 'd' .. days, hours % 24, counts)
end

local function tally()
  return { events = 0, bytes = 0, deleted = 0, keys = {}, types = {}, publishers = {} }
end

local function counted(tallied, bytes, name, kind, publisher)
  tallied.events = tallied.events + 1
  tallied.bytes = tallied.bytes + bytes
  if name ~= '' then tallied.keys[name] = (tallied.keys[name] or 0) + 1 end
  tallied.types[kind] = (tallied.types[kind] or 0) + 1
  tallied.publishers[publisher] = (tallied.publishers[publisher] or 0) + 1
end

-- Writes what was tallied; `first` is the sequence of the first event.
local function count(events, stats, activity, tallied, first)
  if tallied.events == 0 then return end
  local total = redis.call('HINCRBY', stats, 'events', tallied.events)
  redis.call('HINCRBY', stats, 'bytes', tallied.bytes)
  if tallied.deleted ~= 0 then redis.call('HINCRBY', stats, 'deleted', tallied.deleted) end
  if total == tallied.events then
    local alone = redis.call('XLEN', events) == total
    redis.call('HSET', stats, 'since', alone and '0-0' or first)
  end
  local ms = split(first)
  count_by(activity, 'k', ms, tallied.keys)
  count_by(activity, 't', ms, tallied.types)
  count_by(activity, 'p', ms, tallied.publishers)
end

-- Adds an event that the service writes about itself, about no data key.
local function add_alone(events, stats, activity, body, kind)
  local placed = redis.call('XADD', events, '*', 'e', body)
  local tallied = tally()
  counted(tallied, #body, '', kind, '')
  count(events, stats, activity, tallied, placed)
  return placed
end
