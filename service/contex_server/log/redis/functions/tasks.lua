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

redis.register_function('contex1_claim', claim)
