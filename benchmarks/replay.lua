-- Sends every record once: wrk -s replay.lua URL -- TEMPLATE RECORDS FIRST
-- See deliveries.py for the two files. The last line printed is for load.py.

local sizes = { ["\1"] = 36, ["\2"] = 64, ["\3"] = 40, ["\4"] = 40 }
local record = 180
local pieces, slots, file = {}, {}, nil

function init(args)
  local template = io.open(args[1], "rb"):read("*a")
  local from = 1
  while true do
    local at = template:find("[\1-\4]", from)
    pieces[#pieces + 1] = template:sub(from, (at or 0) - 1)
    if not at then break end
    pieces[#pieces + 1] = ""
    local mark = template:sub(at, at)
    slots[mark] = slots[mark] or {}
    table.insert(slots[mark], #pieces)
    from = at + 1
  end
  file = io.open(args[2], "rb")
  file:seek("set", tonumber(args[3]) * record)
end

function request()
  local line = file:read(record)
  if not line then
    file:seek("set", 0)
    line = file:read(record)
  end
  local at = 1
  for _, mark in ipairs({ "\1", "\2", "\3", "\4" }) do
    local value = line:sub(at, at + sizes[mark] - 1)
    at = at + sizes[mark]
    for _, slot in ipairs(slots[mark]) do pieces[slot] = value end
  end
  return table.concat(pieces)
end

function done(summary, latency)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  io.write(string.format("\nRESULT %d %d %d %.1f %.1f %.1f\n", summary.requests, bad,
    summary.duration, latency:percentile(50), latency:percentile(99), latency.max))
end
