"""Load generators: as fast as possible (wrk), or at a constant rate (tools/src/bin/pace.rs)."""

import json
import os
import subprocess
import time

from process import ROOT, WORK

CONNECTIONS = 256


def _run(command, **env):
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=os.environ | env, check=True,
                          stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    figures["answers"] = figures["requests"] / figures["seconds"]
    return figures


def full(port, seconds, connections=CONNECTIONS, bulk=10, bodies="small", close=False):
    threads = min(2, connections)
    return _run(["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", "bench/load.lua",
                 f"http://127.0.0.1:{port}"], BULK=str(bulk), BODIES=bodies, CLOSE=str(int(close)))


def paced(port, seconds, rate, connections=CONNECTIONS, bulk=10):
    return _run([WORK / "tools/release/pace", f"127.0.0.1:{port}", int(rate), seconds, connections, bulk])


def fsync_loop(seconds=2):
    """Writes 4 KiB blocks in place on the spool's file system, each with an fsync, as SQLite writes its log."""
    name, took = WORK / "fsync", []
    with open(name, "wb", buffering=0) as file:
        file.write(bytes(4 << 20))
        os.fsync(file)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.perf_counter()
            os.pwrite(file.fileno(), bytes(4096), len(took) % 1024 * 4096)
            os.fsync(file)
            took.append((time.perf_counter() - begun) * 1000)
    name.unlink()
    took.sort()
    return {"per_second": len(took) / seconds, "p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}
