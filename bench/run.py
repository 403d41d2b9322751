"""make bench: runs the measures on this machine, then writes tables and charts.

usage: run.py [--quick] [MEASURE ...]      default: all measures

Samples are stored in target/bench. Running some measures keeps the samples of the others. The results of all
measures are written to bench/results.md and bench/*.svg (--quick: to target/bench)."""

import argparse
import contextlib
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

import measures
import report
from postgres import Postgres
from process import ROOT, WORK


class Bench:
    """Durations, numbers of rounds, and samples, shared by the measures."""

    def __init__(self, quick, backlog):
        self.quick = quick
        self.rounds, self.seconds = (2, 3) if quick else (3, 8)
        self.fewer_rounds, self.fewer_seconds = (1, 2) if quick else (2, 5)
        self.backlog = backlog or (100_000 if quick else 1_000_000)
        self.levels = (0, 200_000) if quick else (0, 1_000_000, 10_000_000)
        self.connections = (1, 256, 1000) if quick else (1, 16, 64, 256, 1000)
        self.file = WORK / ("quick.json" if quick else "full.json")
        self.samples = json.loads(self.file.read_text()) if self.file.exists() else []

    def add(self, measure, who, round, case="", **figures):
        self.samples.append({"measure": measure, "who": who, "case": str(case), "round": round, **figures})
        self.file.write_text(json.dumps(self.samples))
        shown = "  ".join(f"{name} {value:,.5g}" for name, value in figures.items() if value is not None)
        print(f"{measure} {round + 1}  {who:28} {case!s:24} {shown}", flush=True)

    def median(self, measure, who, figure):
        found = [s[figure] for s in self.samples if (s["measure"], s["who"]) == (measure, who)]
        if not found:
            raise SystemExit(f"run the measure `{measure}` first: its figures are needed")
        return statistics.median(found)

    def forget(self, measure):
        self.samples = [sample for sample in self.samples if sample["measure"] != measure]

    def in_turns(self, participants, rounds=None):
        """(round, name, participant). Every other round is in reverse order, so that none is always first."""
        for round in range(rounds or self.rounds):
            ordered = list(participants.items())
            for name, participant in ordered[:: -1 if round % 2 else 1]:
                yield round, name, participant


@contextlib.contextmanager
def no_autogroups():
    """Turns off Linux's autogroups, which divide CPU time between sessions: each process of PostgreSQL would be one session,
    and the receiver with all its threads another. Services in containers and under systemd have none. Needs root."""
    switch = Path("/proc/sys/kernel/sched_autogroup_enabled")
    before = switch.read_text() if os.access(switch, os.W_OK) else "0"
    if before.strip() != "0":
        switch.write_text("0")
    try:
        yield
    finally:
        if before.strip() != "0":
            switch.write_text(before)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds, smaller backlogs")
    arguments.add_argument("--backlog", type=int, metavar="N", help="number of deliveries in the backlog after an outage")
    arguments.add_argument("measure", nargs="*", choices=[*measures.ALL, []], help=", ".join(measures.ALL))
    chosen = arguments.parse_args()

    # Enough open files for a thousand connections on both sides.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    bench = Bench(chosen.quick, chosen.backlog)
    begun = time.monotonic()
    with no_autogroups(), Postgres() as bench.postgres:
        for name in chosen.measure or measures.ALL:
            bench.forget(name)
            measures.ALL[name](bench)
        version = bench.postgres.version
    minutes = (time.monotonic() - begun) / 60
    report.write(bench.samples, WORK if chosen.quick else ROOT / "bench", version, chosen.quick)
    print(f"\n{minutes:.0f} minutes")


if __name__ == "__main__":
    main()
