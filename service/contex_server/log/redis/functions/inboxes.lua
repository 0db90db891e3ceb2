-- Who decides what agents get, and what was decided.
--
-- The agents of a project are spread over SHARDS shards by a hash of their ids. One server process
-- decides for a shard at a time. Keys:
--   deciding        hash: "s<shard>" -> "<epoch> <position> <owner>": everything up to the position
--                   is decided for the shard's agents. An epoch grows with each change of owner, and
--                   what a former owner still writes is refused. "a<agent>" -> the position of an
--                   agent that has not caught up with its shard. "numbers" -> how many are given out.
--                   "t<agent>" -> "<id> <summed up> <dropped>": its inbox is trimmed up to the id, and
--                   how many deliveries that it had not acknowledged by then were replaced by later
--                   ones of their datum, and how many were of no datum. "f<agent>" -> the earliest
--                   place from which a registered agent has asked for the past. "l<agent>" -> the id up to
--                   which entries of its inbox are let go of that come out of order
--   decided         hash: agent -> what decides for it at its position; '' if nothing does yet
--   inbox:<agent>   stream: what was decided to be sent to it; see `inbox_id`
--   base:<agent>    stream: of what was trimmed off its inbox, the latest entry of each data key
--   base-new:<agent> the next base while it is put together
--   holders:<shard> hash: data key -> which agents were sent it; opaque here
--   decisions       hash: number -> a model with its background; opaque here
local SHARDS = 4
-- Agents that are told of by name.
local TOLD = 500

-- The projects of a bucket that have agents: a set.
local function with_agents_key(own)
  local bucket, name = string.match(own, '^(ctx:{%d+}):p:(.*):$')
  return bucket .. ':with-agents', name
end

-- Lets deciding begin before the next event of a project, unless it has begun; also where there was
-- nobody to decide for, so that nobody waits for what concerned no one.
local function begin_deciding(own, tail)
  local nobody = redis.call('HLEN', own .. 'decided') == 0 and redis.call('HLEN', own .. 'agents') == 0
  for shard = 0, SHARDS - 1 do
    local held = redis.call('HGET', own .. 'deciding', 's' .. shard)
    if not held then
      redis.call('HSET', own .. 'deciding', 's' .. shard, '0 ' .. tail .. ' -')
    elseif nobody then
      local epoch, owner = string.match(held, '^(%d+) %S+ (%S+)$')
      redis.call('HSET', own .. 'deciding', 's' .. shard, epoch .. ' ' .. tail .. ' ' .. owner)
    end
  end
  local with_agents, name = with_agents_key(own)
  redis.call('SADD', with_agents, name)
end

-- What a registration means for deciding; `tail` is the sequence before its event.
local function registering(own, id, tail)
  begin_deciding(own, tail)
  redis.call('HSETNX', own .. 'decided', id, '')
  redis.call('PERSIST', own .. 'inbox:' .. id)
  redis.call('PERSIST', own .. 'base:' .. id)
end

-- Lets a process decide for some shards of a project from here on.
--
-- KEYS  deciding, events, agents
-- ARGV  owner, then the shards
-- Returns for each shard its epoch and position, or nil if there is nobody to decide for.
local function take_shards(keys, args)
  local own = string.sub(keys[1], 1, -9)
  if redis.call('HLEN', keys[3]) == 0 and redis.call('HLEN', own .. 'decided') == 0 then
    local with_agents, name = with_agents_key(own)
    redis.call('SREM', with_agents, name)
    return nil
  end
  begin_deciding(own, tail_of(keys[2]))
  local taken = {}
  for i = 2, #args do
    local field = 's' .. args[i]
    local epoch, position = string.match(redis.call('HGET', keys[1], field), '^(%d+) (%S+)')
    -- Also if it was this owner's: what that has still under way must not come in between.
    epoch = whole(tonumber(epoch) + 1)
    redis.call('HSET', keys[1], field, epoch .. ' ' .. position .. ' ' .. args[1])
    taken[#taken + 1] = epoch
    taken[#taken + 1] = position
  end
  return taken
end

-- Nothing decides for an agent that is registered no more. If another one has its id by now, that
-- is still to be begun with, after the position where the first one left, or the shard's.
local function leaves(keys, id)
  local agents = string.sub(keys[1], 1, -9) .. 'agents'
  if redis.call('HEXISTS', agents, id) == 1 then
    redis.call('HSET', keys[2], id, '')
    return true
  end
  redis.call('HDEL', keys[2], id)
  redis.call('HDEL', keys[1], 'l' .. id)
  -- What was decided after the agent had gone is kept for as long as its journal.
  local own = string.sub(keys[1], 1, -9)
  local left = redis.call('PTTL', own .. 'journal:' .. id)
  if left > 0 and redis.call('PTTL', own .. 'inbox:' .. id) == -1 then
    redis.call('PEXPIRE', own .. 'inbox:' .. id, left)
  end
  return false
end

-- Parks again what was parked and is on its way again: those entries of again:<agent>; see groups.lua.
local function park_redriven(own, id)
  local again = own .. 'again:' .. id
  for _, row in ipairs(redis.call('XRANGE', again, '-', '+')) do
    if row[2][6] == 'R' then
      local claim = redis.pcall('XPENDING', again, 'consumers', row[1], row[1], 1)[1]
      redis.call('XADD', own .. 'parked:' .. id, '*', 'o', row[2][2], 'd', row[2][4],
        'n', claim and claim[4] or 0, 'c', '', 'w', 'S')
      redis.call('XDEL', again, row[1])
    end
  end
end

-- Ends what an agent's consumers share: they begin anew where the agent stands. What is parked stays,
-- and so does what was redriven, unless the agent goes.
local function drop_group(own, id, with_parked)
  if not with_parked then park_redriven(own, id) end
  redis.pcall('XGROUP', 'DESTROY', own .. 'inbox:' .. id, 'consumers')
  for i, kind in ipairs(GROUP_KINDS) do
    if with_parked or i < #GROUP_KINDS then redis.call('DEL', own .. kind .. id) end
  end
end

-- Before what decides for an agent is noted: one that begins with the past of an earlier agent of its
-- id has none of what that was sent, and nothing could be added before it. Likewise one that begins
-- anew.
local function begins(keys, id, own, anew)
  if own == '' or not anew and (redis.call('HGET', keys[2], id) or '') ~= '' then return end
  local inbox = string.sub(keys[1], 1, -9) .. 'inbox:' .. id
  local ms = tonumber(string.match(own, '^%d+'))
  local last, n = string.match(tail_of(inbox), '^(%d+)-(%d+)$')
  local own_n = tonumber(string.match(own, '%d+$'))
  if tonumber(last) > ms or tonumber(last) == ms and tonumber(n) >= (own_n + 1) * 1048576 then
    drop_group(string.sub(keys[1], 1, -9), id, false)
    redis.call('DEL', inbox, string.sub(keys[1], 1, -9) .. 'base:' .. id)
    redis.call('HDEL', keys[1], 't' .. id, 'l' .. id)
  end
end

-- Whether an inbox that has later entries has, or had, the one of an id.
local function has_entry(keys, inbox, id, place)
  if redis.call('XRANGE', inbox, place, place)[1] then return true end
  local trimmed = redis.call('HGET', keys[1], 't' .. id)
  return trimmed and not is_after(place, string.match(trimmed, '^%S+'))
end

-- Notes decisions: fills inboxes, and with what goes with them commits them. Filling is repeated
-- without harm, for entries come with their ids; so what is decided for an event may come in several
-- calls, of which the last commits.
--
-- KEYS  deciding, decided, holders of each shard named, then the inboxes
-- ARGV  number of shards, then for each: shard, epoch, position (or ""), owner, number of data, and
--       for each: data key, holders ("" = none); number of agents, then for each: agent, what decides
--       for it ("-" = what does, "" = gone), its own position ("" = its shard's; with "!" in front its
--       inbox begins anew); number of needs,
--       then for each: its name in the activity, how many deliveries;
--       then for each inbox: agent, number of entries, and for each: id, entry
-- Returns {1}, or {0} if a shard has another owner by now, in which case nothing was done. With
-- `in_order`, if an entry comes before others of its inbox and is not there: {0, agent, its id, the
-- last id}, and nothing is committed. Deciding anew may put that right. If it comes again, it is let
-- go of: {1, agent, its id, the last id} of the first.
local function note_decisions(keys, args, in_order)
  local shards, at = tonumber(args[1]), 2
  local plan = {}
  for s = 1, shards do
    local name, epoch = args[at], args[at + 1]
    local held = redis.call('HGET', keys[1], 's' .. name)
    if not held or string.match(held, '^%d+') ~= epoch then return { 0 } end
    local data = tonumber(args[at + 4])
    plan[s] = { name = name, epoch = epoch, position = args[at + 2], owner = args[at + 3],
                first = at + 5, data = data }
    at = at + 5 + 2 * data
  end
  local agents, first_agent = tonumber(args[at]), at + 1
  at = at + 1 + 3 * agents
  local counts = {}
  for i = at + 1, at + 2 * tonumber(args[at]), 2 do
    counts[args[i]] = (counts[args[i]] or 0) + tonumber(args[i + 1])
  end
  at = at + 1 + 2 * tonumber(args[at])
  local told, key, done = {}, 2 + shards, { 1 }
  while at <= #args do
    local id, count = args[at], tonumber(args[at + 1])
    key = key + 1
    at = at + 2
    for _ = 1, count do
      local added = redis.pcall('XADD', keys[key], args[at], 'd', args[at + 1])
      if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
        return redis.error_reply(added.err)
      end
      if in_order and type(added) == 'table' and added.err and not has_entry(keys, keys[key], id, args[at]) then
        local given_up, last = redis.call('HGET', keys[1], 'l' .. id), tail_of(keys[key])
        if not given_up or is_after(args[at], given_up) then
          redis.call('HSET', keys[1], 'l' .. id, last)
          return { 0, id, args[at], last }
        end
        if not done[2] then done = { 1, id, args[at], last } end
      end
      at = at + 2
    end
    told[#told + 1] = id
  end
  for s, each in ipairs(plan) do
    local changed, gone = {}, {}
    for i = each.first, each.first + 2 * each.data - 1, 2 do
      if args[i + 1] == '' then
        gone[#gone + 1] = args[i]
      else
        changed[#changed + 1] = args[i]
        changed[#changed + 1] = args[i + 1]
      end
    end
    if #changed > 0 then chunked('HSET', keys[2 + s], changed) end
    if #gone > 0 then chunked('HDEL', keys[2 + s], gone) end
    if each.position ~= '' then
      redis.call('HSET', keys[1], 's' .. each.name, each.epoch .. ' ' .. each.position .. ' ' .. each.owner)
    end
  end
  for i = first_agent, first_agent + 3 * agents - 1, 3 do
    local id, decides = args[i], args[i + 1]
    local anew, own = string.match(args[i + 2], '^(!?)(.*)$')
    if decides == '' then
      if not leaves(keys, id) then own = '' end
    elseif decides ~= '-' then
      begins(keys, id, own, anew ~= '')
      redis.call('HSET', keys[2], id, decides)
    end
    if own == '' then
      redis.call('HDEL', keys[1], 'a' .. id)
    else
      redis.call('HSET', keys[1], 'a' .. id, own)
    end
    told[#told + 1] = id
  end
  if next(counts) then
    local own = string.sub(keys[1], 1, -9)
    count_minute(own .. 'activity', own .. 'activity-open', now_ms(), counts)
  end
  -- Who decides follows the project; other processes that do may have agents that listen.
  local bucket, name = string.match(keys[1], '^(ctx:{%d+}):p:(.*):deciding$')
  local channel = bucket .. ':appended'
  local listening = redis.pcall('PUBSUB', 'SHARDNUMSUB', channel)
  if #told > 0 and (listening[2] or 0) > 1 then
    if #told > TOLD then told = {} end
    redis.pcall('SPUBLISH', channel, table.concat({ '!' .. name, unpack(told) }, ' '))
  end
  return done
end

local function decide_in_order(keys, args)
  return note_decisions(keys, args, true)
end

-- The same as servers call it that are not told of the order; also what an import stages, which has
-- been checked. Returns 1 or 0.
local function decide(keys, args)
  local done = note_decisions(keys, args, false)
  return done.err and done or done[1]
end

-- Whether a process still decides for a shard.
local function decides(deciding, shard, epoch)
  local held = redis.call('HGET', deciding, 's' .. shard)
  return held and string.match(held, '^%d+') == epoch
end

-- Adds entries to the base that an agent's inbox is going to have.
--
-- KEYS  deciding, base-new
-- ARGV  shard, epoch, "1" if it begins with these, then id, entry of each
-- Returns 1, or 0 if the shard has another owner by now.
local function fill_base(keys, args)
  if not decides(keys[1], args[1], args[2]) then return 0 end
  if args[3] == '1' then redis.call('DEL', keys[2]) end
  for i = 4, #args, 2 do redis.call('XADD', keys[2], args[i], 'd', args[i + 1]) end
  return 1
end

-- Trims an agent's inbox up to an id, and lets the new base hold.
--
-- KEYS  deciding, base-new, base, inbox
-- ARGV  shard, epoch, agent, id, deliveries summed up, dropped
-- Returns 1, or 0 if the shard has another owner by now.
local function trim_inbox(keys, args)
  if not decides(keys[1], args[1], args[2]) then return 0 end
  redis.call('HSET', keys[1], 't' .. args[3], table.concat({ args[4], args[5], args[6] }, ' '))
  if redis.call('EXISTS', keys[2]) == 1 then redis.call('RENAME', keys[2], keys[3]) end
  -- Exactly: the oldest entry says how old the inbox is.
  redis.call('XDEL', keys[4], args[4])
  redis.call('XTRIM', keys[4], 'MINID', args[4])
  return 1
end

-- Where deciding stands, all as of one moment.
--
-- KEYS  deciding, decided, agents
-- Returns the fields and values of the first two, the agents.
local function deciding_state(keys)
  return { redis.call('HGETALL', keys[1]), redis.call('HGETALL', keys[2]), redis.call('HKEYS', keys[3]) }
end

-- The kinds of keys that hold what was decided in a project.
local function decided_kinds(own)
  local kinds = { 'deciding', 'decided', 'decisions', 'places' }
  for shard = 0, SHARDS - 1 do kinds[#kinds + 1] = 'holders:' .. shard end
  for _, id in ipairs(redis.call('HKEYS', own .. 'decided')) do
    for _, kind in ipairs(DECIDED_KINDS) do kinds[#kinds + 1] = kind .. id end
  end
  return kinds
end

-- Tells where an agent's inbox begins and ends, and how far it is decided.
--
-- KEYS  deciding, inbox
-- ARGV  agent id, shard
-- Returns the id of the inbox's last entry ever, the shard's position, the agent's own or '', up to
-- where it is trimmed or ''.
local function inbox_end(keys, args)
  local held = redis.call('HGET', keys[1], 's' .. args[2])
  local position = held and string.match(held, '^%d+ (%S+)') or '0-0'
  local own, trimmed = unpack(redis.call('HMGET', keys[1], 'a' .. args[1], 't' .. args[1]))
  if not own and redis.call('HGET', string.sub(keys[1], 1, -9) .. 'decided', args[1]) == '' then
    position = '0-0' -- Nothing decides for it yet, wherever its shard is.
  end
  return { tail_of(keys[2]), position, own or '', trimmed or '' }
end

-- Tells what of some inboxes is after a place of each, what is left of their trimmed parts included.
--
-- KEYS  for each inbox: base, inbox
-- ARGV  how many entries are counted at most, then for each inbox the place
-- Returns for each the id of the first entry or '', and how many there are: one more than is counted
-- at most where there are more.
local function unread(keys, args)
  local told = {}
  local most = tonumber(args[1]) + 1
  for i = 2, #args do
    local first, count = '', 0
    for j = 2 * i - 3, 2 * i - 2 do
      if count < most then
        local rows = redis.call('XRANGE', keys[j], '(' .. args[i], '+', 'COUNT', whole(most - count))
        if rows[1] and first == '' then first = rows[1][1] end
        count = count + #rows
      end
    end
    told[#told + 1] = first
    told[#told + 1] = count
  end
  return told
end

-- Tells which event is the first after some positions of a log.
--
-- KEYS  events
-- ARGV  the positions
-- Returns the time in unix ms, then for each position the sequence or ''.
local function undecided(keys, args)
  local told = { whole(now_ms()) }
  for _, position in ipairs(args) do
    local rows = redis.call('XRANGE', keys[1], '(' .. position, '+', 'COUNT', 1)
    told[#told + 1] = rows[1] and rows[1][1] or ''
  end
  return told
end

-- The same for servers that know of no trimming: without what is trimmed.
local function untrimmed_end(keys, args)
  local last, position, own = unpack(inbox_end(keys, args))
  return { last, position, own }
end

-- Numbers that were not given out before.
--
-- KEYS  deciding
-- ARGV  how many
-- Returns the first.
local function numbers(keys, args)
  return redis.call('HINCRBY', keys[1], 'numbers', args[1]) - tonumber(args[1]) + 1
end

-- Says that a process is there for a while, or with a time of 0 that it leaves.
--
-- KEYS  members
-- ARGV  member, for how many milliseconds
-- Returns all that are there.
local function join(keys, args)
  local ms = now_ms()
  if tonumber(args[2]) > 0 then
    redis.call('ZADD', keys[1], whole(ms + tonumber(args[2])), args[1])
  else
    redis.call('ZREM', keys[1], args[1])
  end
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', whole(ms))
  return redis.call('ZRANGE', keys[1], 0, -1)
end

redis.register_function('contex1_take_shards', take_shards)
redis.register_function('contex1_decide', decide)
redis.register_function('contex2_decide', decide_in_order)
redis.register_function('contex1_fill_base', fill_base)
redis.register_function('contex1_trim_inbox', trim_inbox)
redis.register_function{ function_name = 'contex1_inbox_end', callback = untrimmed_end, flags = { 'no-writes' } }
redis.register_function{ function_name = 'contex2_inbox_end', callback = inbox_end, flags = { 'no-writes' } }
redis.register_function{ function_name = 'contex1_unread', callback = unread, flags = { 'no-writes' } }
redis.register_function{ function_name = 'contex1_undecided', callback = undecided, flags = { 'no-writes' } }
redis.register_function{ function_name = 'contex1_deciding_state', callback = deciding_state, flags = { 'no-writes' } }
redis.register_function('contex1_numbers', numbers)
redis.register_function('contex1_join', join)
