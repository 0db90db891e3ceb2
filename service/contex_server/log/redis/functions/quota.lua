-- What tenants use, for all servers together. The keys of a tenant are those of a project that
-- nobody can name, "~quota:<tenant>", so they share a slot. See quota/ for the rules.
--
--   rate:<project>:<limit>  string: the theoretical arrival time of GCRA, in µs since 1970; it expires
--                           when it has passed. The project is empty for the tenant's own limits
--   use:<project>           hash: "<slot of 10 s, modulo USE_SLOTS>:<limit>" -> "<slot> <units>"
--   refused                 hash: "<limit>:<project>" -> calls that were refused for it
--   streams                 hash: server -> "<until when> <project>=<open>/<claimed> ...", in ms
local USE_SLOT_MS, USE_SLOTS, USE_KEPT_MS = 10000, 12, 120000
local BURST_US = 1000000
-- Projects have any names: those of a tenant whose refusals are counted are bounded.
local REFUSED_KEPT = 10000

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Takes units of several rates. Each group is taken whole or not at all, in order; debts are taken in
-- any case, and spares, which servers keep to spend later, where there is room after all groups.
--
-- A group needs room for its units within the burst, which is one second's. One of more units than
-- that needs a bucket that is full, and those after it wait for as long as it takes to fill again.
--
-- KEYS  rates
-- ARGV  for each: units per second, debt, spare;
--       then for each group: count, and for each of so many: the rate's number from 1, units
-- Returns for each rate: µs until its bucket is full, spare units; then for each group 1 or 0
local function take_rates(keys, args)
  local now, per_unit, ahead, spare, changed = now_us(), {}, {}, {}, {}
  for i = 1, #keys do
    per_unit[i] = BURST_US / tonumber(args[3 * i - 2])
    local before = math.max(0, tonumber(redis.call('GET', keys[i]) or now) - now)
    local debt = tonumber(args[3 * i - 1])
    ahead[i], spare[i], changed[i] = before + debt * per_unit[i], 0, debt > 0
  end
  local taken, at = {}, 3 * #keys + 1
  while at <= #args do
    local upto = at + 2 * tonumber(args[at])
    local fits = true
    for k = at + 1, upto, 2 do
      local i = tonumber(args[k])
      local cost = math.min(tonumber(args[k + 1]) * per_unit[i], BURST_US)
      -- Half a microsecond: sums of fractions are not exact.
      if ahead[i] + cost > BURST_US + 0.5 then fits = false end
    end
    if fits then
      for k = at + 1, upto, 2 do
        local i = tonumber(args[k])
        ahead[i], changed[i] = ahead[i] + tonumber(args[k + 1]) * per_unit[i], true
      end
    end
    taken[#taken + 1] = fits and 1 or 0
    at = upto + 1
  end
  local reply = {}
  for i = 1, #keys do
    local room = math.floor((BURST_US - ahead[i]) / per_unit[i])
    local more = math.max(0, math.min(tonumber(args[3 * i]), room))
    if more > 0 then
      ahead[i], spare[i], changed[i] = ahead[i] + more * per_unit[i], more, true
    end
    if changed[i] then
      local ms = math.ceil(ahead[i] / 1000) + 1
      redis.call('SET', keys[i], whole(now + ahead[i]), 'PX', whole(ms))
    end
    reply[2 * i - 1], reply[2 * i] = math.ceil(ahead[i]), spare[i]
  end
  for _, one in ipairs(taken) do reply[#reply + 1] = one end
  return reply
end

-- Adds what was used, and what was refused.
--
-- KEYS  refused, use of each project
-- ARGV  number of pairs that were refused; of each: "<limit>:<project>", calls;
--       then for each key of use: number of pairs; of each: limit, units
local function add_quota_use(keys, args)
  local slot = math.floor(now_ms() / USE_SLOT_MS)
  local at = 2
  local full = redis.call('HLEN', keys[1]) >= REFUSED_KEPT
  for _ = 1, tonumber(args[1]) do
    if not full or redis.call('HEXISTS', keys[1], args[at]) == 1 then
      redis.call('HINCRBY', keys[1], args[at], args[at + 1])
    end
    at = at + 2
  end
  for i = 2, #keys do
    local count = tonumber(args[at])
    at = at + 1
    for _ = 1, count do
      local field = (slot % USE_SLOTS) .. ':' .. args[at]
      local stored = redis.call('HGET', keys[i], field)
      local of, units = string.match(stored or '', '^(%d+) (%d+)$')
      units = tonumber(of) == slot and tonumber(units) or 0
      units = whole(units + tonumber(args[at + 1]))
      redis.call('HSET', keys[i], field, whole(slot) .. ' ' .. units)
      at = at + 2
    end
    redis.call('PEXPIRE', keys[i], USE_KEPT_MS)
  end
  return 1
end

-- Tells how many streams a server has open, and claims those that it may open.
--
-- KEYS  streams
-- ARGV  server, for how many ms that holds, then for each project: name, limit or 0, open streams, how
--       many are about to be opened, how many more would be convenient
-- Returns for each project: how many the server may have, how many others have
local function hold_streams(keys, args)
  local now = now_ms()
  local open, claimed = {}, {}
  local stored = redis.call('HGETALL', keys[1])
  for i = 1, #stored, 2 do
    local until_ms = tonumber(string.match(stored[i + 1], '^%d+'))
    if until_ms <= now then
      redis.call('HDEL', keys[1], stored[i])
    elseif stored[i] ~= args[1] then
      for project, o, c in string.gmatch(stored[i + 1], ' ([^ =]*)=(%d+)/(%d+)') do
        open[project] = (open[project] or 0) + tonumber(o)
        claimed[project] = (claimed[project] or 0) + tonumber(c)
      end
    end
  end
  local reply, parts, until_ms = {}, {}, now + tonumber(args[2])
  for at = 3, #args, 5 do
    local project, limit, mine = args[at], tonumber(args[at + 1]), tonumber(args[at + 2])
    local others = claimed[project] or 0
    local granted = mine + tonumber(args[at + 3])
    if limit > 0 then granted = math.min(granted, math.max(mine, limit - others)) end
    local spare = tonumber(args[at + 4])
    -- Near the limit, what one server does not use would be missing on another.
    if limit > 0 and 2 * (others + granted + spare) <= limit then granted = granted + spare end
    if granted > 0 then
      parts[#parts + 1] = ' ' .. project .. '=' .. whole(mine) .. '/' .. whole(granted)
    end
    reply[#reply + 1] = granted
    reply[#reply + 1] = open[project] or 0
  end
  if #parts > 0 then
    redis.call('HSET', keys[1], args[1], whole(until_ms) .. table.concat(parts))
    redis.call('PEXPIRE', keys[1], args[2])
  else
    redis.call('HDEL', keys[1], args[1])
  end
  return reply
end

redis.register_function('contex1_take_rates', take_rates)
redis.register_function('contex1_add_quota_use', add_quota_use)
redis.register_function('contex1_hold_streams', hold_streams)
