"""The measured servers: the bare handler, the receiver, and typical implementations with other frameworks."""

import os
import shutil
import time
import urllib.request

from postgres import RECEIVER
from process import ROOT, WORK, Process

TOOLS = WORK / "tools/release"
SPOOL = WORK / "spool"
AWAY = "postgres://nobody@127.0.0.1:1/none"


class Receiver(Process):
    """The receiver, with an empty spool or a copy of `backlog`."""

    def __init__(self, url, backlog=None, program=RECEIVER):
        super().__init__(
            [program], 28010, DATABASE_URL=url, RECEIVER__HTTP__LISTEN="127.0.0.1:28010",
            RECEIVER__ADMIN__LISTEN="127.0.0.1:28011", RECEIVER__SPOOL__DIR=SPOOL,
            RECEIVER__SPOOL__MAX_BYTES=20_000_000_000, RECEIVER__SHUTDOWN__DRAIN_TIMEOUT="0s",
            RECEIVER__LOG__FILTER="error")
        self.records, self.backlog = url != AWAY, backlog

    def spawn(self):
        shutil.rmtree(SPOOL, ignore_errors=True)
        if self.backlog:
            shutil.copytree(self.backlog, SPOOL)
            os.sync()
        super().spawn()

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(SPOOL, ignore_errors=True)

    def admin(self, path):
        return urllib.request.urlopen("http://127.0.0.1:28011" + path, timeout=30).read().decode()

    def ready(self):
        try:
            self.admin("/health/ready")
        except OSError:
            return False
        return not self.records or self.metric("database_up") == 1

    def metric(self, name):
        """The sum of all series whose name begins with `name`."""
        lines = [line for line in self.admin("/metrics").splitlines() if line.startswith("workflow_receiver_" + name)]
        return int(sum(float(line.split()[-1]) for line in lines))

    def recorded(self):
        return self.metric("deliveries_recorded_total")

    def answered(self):
        return self.metric('webhooks_answered_total{status="200"}')

    def wait_recorded(self):
        """Waits until the spool is empty. Returns the number of recorded deliveries and the time of the last one."""
        count, last = self.recorded(), time.monotonic()
        while self.alive() and self.metric("spool_depth"):
            time.sleep(0.01)
            if (now := self.recorded()) > count:
                count, last = now, time.monotonic()
        return count, last


def bare():
    process = Process([TOOLS / "bare", "127.0.0.1:28020"], 28020)
    process.records = False
    return process


def fastapi(postgres, database):
    command = [WORK / "python/bin/uvicorn", "webhooks:app", "--app-dir", ROOT / "bench/peers", "--port", 28030,
               "--workers", os.cpu_count(), "--timeout-keep-alive", 75, "--loop", "uvloop", "--http", "httptools",
               "--log-level", "error"]
    return Process(command, 28030, DATABASE_URL=postgres.url(database), PYTHONDONTWRITEBYTECODE=1)


def express(postgres, database):
    return Process(["node", ROOT / "bench/peers/webhooks.js"], 28040, PORT=28040, PGHOST=postgres.host,
                   PGUSER=postgres.user, PGDATABASE=database, NODE_PATH=WORK / "node/node_modules",
                   NODE_ENV="production")


def everyone(postgres, database):
    """The servers that are compared in all measures, by name."""
    return {
        "bare handler": bare,
        "workflow-receiver": lambda: Receiver(postgres.url(database)),
        "FastAPI": lambda: fastapi(postgres, database),
        "Express": lambda: express(postgres, database),
    }
