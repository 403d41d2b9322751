"""make bench-compare BEFORE=PROGRAM: compares this build of the receiver with another one, in alternating rounds.

Prints, for each figure, the ratio of this build to the other one: the median of the rounds and their range. A difference
smaller than the range is noise."""

import argparse
import contextlib
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

import load
import measures
from postgres import RECEIVER, Postgres
from run import Bench, no_autogroups
from servers import AWAY, Receiver


class Build:
    """A build of the receiver with a database of its own."""

    def __init__(self, bench, name, program):
        self.bench, self.database, self.program = bench, name, Path(program).resolve()
        bench.postgres.make(name, program=self.program)

    def server(self, backlog=None, away=False):
        url = AWAY if away else self.bench.postgres.url(self.database)
        return Receiver(url, backlog, program=self.program)

    def figures(self, rate):
        """Full load, half load, and a backlog; the rate of half load is the same for both builds."""
        postgres = self.bench.postgres
        postgres.empty(self.database)
        with self.server() as server:
            full = measures.under_load(self.bench, server, self.database)
        postgres.empty(self.database)
        with self.server() as server:
            half = load.paced(server.port, self.bench.seconds, rate or full["answers"] / 2)
        with self.server(away=True) as server:
            away = load.full(server.port, self.bench.seconds)
            server.stop()
            shutil.rmtree(measures.KEPT, ignore_errors=True)
            measures.SPOOL.rename(measures.KEPT)
        postgres.empty(self.database)
        with self.server(measures.KEPT) as server:
            begun, before = time.monotonic(), server.recorded()
            count, ended = server.wait_recorded()
        shutil.rmtree(measures.KEPT)
        return {
            "answers per second, full load": full["answers"],
            "recorded per second, full load": full["recorded"],
            "CPU per webhook, full load": full["cpu_us"],
            "PostgreSQL's CPU per webhook": full["postgres_cpu_us"],
            "WAL bytes per webhook": full["wal_bytes"],
            "memory, idle": full["idle_mib"],
            "memory, full load": full["peak_mib"],
            "answers per second, PostgreSQL away": away["answers"],
            "p50 at half load": half["p50"],
            "p99 at half load": half["p99"],
            "backlog recorded per second": (count - before) / (ended - begun),
        }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("before", help="the other build's program")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=5)
    chosen = arguments.parse_args()
    bench = Bench(quick=True, backlog=None)
    bench.seconds = chosen.seconds
    with no_autogroups(), Postgres() as bench.postgres, contextlib.suppress(KeyboardInterrupt):
        builds = {"before": Build(bench, "before", chosen.before), "after": Build(bench, "after", RECEIVER)}
        rate, rounds = None, []
        for round, name, build in bench.in_turns(builds, chosen.rounds):
            figures = build.figures(rate)
            rate = rate or figures["answers per second, full load"] / 2
            if len(rounds) == round:
                rounds.append({})
            rounds[round][name] = figures
            print(round + 1, name, {figure: float(f"{value:.4g}") for figure, value in figures.items()}, flush=True)
        print(f"\n{'this build ÷ the other':38} median  (lowest–highest of {len(rounds)} rounds)")
        for figure in figures:
            ratios = [both["after"][figure] / both["before"][figure] for both in rounds if len(both) == 2]
            print(f"{figure:38} {statistics.median(ratios):6.2f}  ({min(ratios):.2f}–{max(ratios):.2f})")


if __name__ == "__main__":
    main()
