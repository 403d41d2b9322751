-- A different execution with every request, in bulks of ten: 672 bytes each.
local threads = 0
function setup(thread) thread:set("thread", threads); threads = threads + 1 end
function init(args)
  math.randomseed(os.time() * 100 + thread)
  run, n = math.random(1, 1e9), 0
end
local fill = string.rep("x", 400)
function request()
  n = n + 1
  return wrk.format("POST", nil, nil, string.format(
    '{"execution_id":"%010d-%02d-%010d","workflow_id":"50741f40-8621-4d46-8a91-dff4d873be98","bulk_id":"%010d-%02d-%010d",' ..
    '"status":"completed","output":["https://storage.googleapis.com/uploads/image.png"],"inputs":{"prompt":"%s"}}',
    run, thread, n, run, thread, n / 10, fill))
end
