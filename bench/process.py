"""Starts and stops the measured programs, and reads their CPU time and memory."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target/bench"
TICK = os.sysconf("SC_CLK_TCK")


class Process:
    """A program that listens on `port`, with its children. Entering the context waits until it is ready."""

    # Whether it writes webhooks to PostgreSQL.
    records = True

    def __init__(self, command, port, **env):
        self.command, self.port, self.env = [str(c) for c in command], port, {k: str(v) for k, v in env.items()}

    def spawn(self):
        self.log = open(WORK / "log", "a")
        env = {k: v for k, v in os.environ.items() if k != "DATABASE_URL" and not k.startswith("RECEIVER__")}
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=env | self.env, stdout=self.log, stderr=self.log, start_new_session=True)
        self.pid = self.process.pid

    def alive(self):
        if self.process.poll() is not None:
            raise SystemExit(f"{self.command[0]} has ended, see {WORK}/log")
        return True

    def ready(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def __enter__(self):
        self.spawn()
        begun = time.monotonic()
        try:
            while self.alive() and not self.ready():
                time.sleep(0.01)
        except BaseException:
            self.__exit__()
            raise
        self.started_in = time.monotonic() - begun
        return self

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        # Workers may outlive the program.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def __exit__(self, *_):
        self.stop()

    def family(self):
        """The pids of the program and all its descendants."""
        children = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            fields = _fields(stat)
            if fields:
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found, todo = [], [self.pid]
        while todo:
            found.append(todo.pop())
            todo += children.get(found[-1], [])
        return found

    def cpu(self):
        """CPU seconds so far, including children that have exited."""
        stats = [_fields(Path(f"/proc/{pid}/stat")) for pid in self.family()]
        return sum(int(ticks) for fields in stats if fields for ticks in fields[11:15]) / TICK

    def memory(self, what="VmRSS"):
        """Resident memory in MiB: now, or the peak with VmHWM."""
        total = 0
        for pid in self.family():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(what + ":"))
        return total / 1024


def _fields(stat):
    """The fields of /proc/PID/stat after the name, which may contain spaces. None if the process has exited."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return None
