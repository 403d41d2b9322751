-- Webhooks for wrk, each for a new execution, in bulks of BULK (10). BODIES selects the bodies:
--   small   672 bytes
--   page    the examples of the sender's documentation, in turn
--   mixed   0.3 to 300 KB, each order of magnitude equally likely
-- CLOSE=1 opens a connection for every request. Prints one line of JSON.
local bulk, bodies = tonumber(os.getenv("BULK") or 10), os.getenv("BODIES") or "small"
local headers = os.getenv("CLOSE") == "1" and { Connection = "close" } or nil
local path = "/webhooks/workflow-completed"
local threads = 0
function setup(thread) thread:set("thread", threads); threads = threads + 1 end

local function words(bytes) -- compresses about as well as text
  local list, made, length = {}, {}, 0
  for i = 1, 2000 do
    local w = {}
    for j = 1, math.random(2, 9) do w[j] = string.char(math.random(97, 122)) end
    list[i] = table.concat(w)
  end
  while length < bytes do
    made[#made + 1] = list[math.floor(2000 ^ math.random())]
    length = length + #made[#made] + 1
  end
  return table.concat(made, " ")
end

function init(args)
  local entropy = io.open("/dev/urandom"); local a, b, c = entropy:read(3):byte(1, 3); entropy:close()
  math.randomseed(a * 65536 + b * 256 + c)
  -- Ids are unique and random, as the sender's are. Random ids make index updates expensive.
  local random = math.random
  run = string.format("%04x-4%03x-a%02x%01x", random(0, 65535), random(0, 4095), random(0, 255), thread)
  n = 0
  fill = string.rep("x", 378)
  if bodies == "mixed" then text = words(320000) end
  page = {}
  for name in string.gmatch("bulk-completed completed failed full-execution", "%S+") do
    local file = assert(io.open("tests/payloads/" .. name .. ".json"))
    page[#page + 1] = file:read("*a"); file:close()
  end
end

function request()
  n = n + 1
  local id = string.format("%08x-%s-%012x", math.random(0, 4294967295), run, n)
  if bodies == "page" then
    local body = page[n % #page + 1]
    return wrk.format("POST", path, headers, (body:gsub('("execution_id": ")[^"]*', "%1" .. id)))
  end
  local k = math.floor(n / bulk)
  local bulk_id = string.format("%08x-%s-%012x", k * 1103515245 % 4294967296, run, k)
  if bodies == "mixed" then
    local from = math.random(1, 19000)
    fill = text:sub(from, from + 300 * 1000 ^ math.random())
  end
  return wrk.format("POST", path, headers, string.format(
    '{"execution_id":"%s","workflow_id":"50741f40-8621-4d46-8a91-dff4d873be98","bulk_id":"%s",' ..
    '"status":"completed","output":["https://storage.googleapis.com/uploads/image.png"],"inputs":{"prompt":"%s"}}',
    id, bulk_id, fill))
end

function done(summary, latency)
  local e = summary.errors
  print(string.format('{"requests":%d,"seconds":%.3f,"errors":%d,"p50":%.3f,"p99":%.3f,"p999":%.3f}',
    summary.requests - e.status, summary.duration / 1e6, e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency:percentile(99.9) / 1000))
end
