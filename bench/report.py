"""Writes results.md and results.svg from the samples."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

import draw
from figures import by_round, combine, median, ratio, spread
from measures import BARE, BESIDE, RECEIVER, WITHOUT
from process import ROOT, WORK

PEERS = "FastAPI", "Express"


def write(samples, directory, postgres, quick):
    def get(measure, who, figure, case=None):
        return by_round(samples, measure, who, figure, case)

    page = [
        "# What `make bench` measured", "",
        ("Quick run: few and short rounds, too coarse for conclusions. " if quick else "")
        + "Medians, with the minimum and maximum of all rounds in brackets; ratios are computed within each round. "
        "Load generator, receiver and PostgreSQL share the machine. If run as root, autogroups are off (`bench/run.py`).", "",
        *machine(postgres)]
    for title, what, rows in (
            ("The goals", "256 connections, bodies of 672 bytes, bulks of 10. *At best*: a server with the bare handler's "
             "cost per request and COPY's cost per row, on the same cores.", goals(samples, get)),
            ("Full load", "CPU and memory include all processes of a server.", speed(get)),
            ("Half load", "At a constant rate: half of each server's full load. The bare handler runs at the receiver's "
             "rate, also beside a COPY of as many rows per second. Latency is measured from the time a webhook was due. "
             "The last row is an fsync loop.", latency(get)),
            ("Sustained", "Under a load above its capacity, recording is throttled for the first ten seconds. These figures "
             "start at the thirteenth second.", sustained(get)),
            ("Slow senders", "4,000 webhooks per second over 64 connections, alone and beside 2,000 connections that send one "
             "byte per second.", slow(get)),
            ("Connections", "Responses per second.", across(samples, get, "connections")),
            ("Bodies", "Responses per second. page: the examples of the sender's documentation; mixed: 0.3 to 300 KB, "
             "each order of magnitude equally likely.", across(samples, get, "bodies")),
            ("Backlog", f"{backlog_of(get)} deliveries, recorded into an empty table; COPY writes the same rows "
             "into the same table.", backlog(get)),
            ("Growth", "With this many executions already recorded. *COPY*: the rows recorded by the full load before it. "
             "*backlog*: while a backlog is drained.",
             growth(samples, get)),
            ("Queries", "Every query of docs/operators.md, and the API's lists and items, one after the other, with the "
             "largest number of recorded executions and at half load. In milliseconds, on the shared machine.",
             questions(samples, get))):
        page += ["", "## " + title, "", what, "", *(rows or ["Not measured."])]
    page.append("")
    text = "\n".join(page)
    (directory / "results.md").write_text(text)
    (directory / "results.svg").write_text(picture(samples, get))
    print("\n" + text + f"\nwritten to {directory}/results.md and results.svg")


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def machine(postgres):
    def says(*command):
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.strip()

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = (ROOT / "bench/peers/requirements.txt").read_text().replace("==", " ").split("\n")[:-1]
    node = json.loads((ROOT / "bench/peers/package.json").read_text())["dependencies"]
    return table(["", ""], [
        ["machine", f"{os.cpu_count()} cores, {cpu[1] if cpu else platform.machine()}, {memory:.0f} GiB, "
                    f"Linux {platform.release().partition('-')[0]}, {says('stat', '-fc', '%T', ROOT)}"],
        ["receiver", f"{says('git', 'describe', '--always', '--dirty')}, {says('rustc', '--version')}"],
        ["PostgreSQL", f"{postgres}, max_wal_size 4 GB, otherwise defaults: fsync and synchronous_commit on"],
        ["peers", ", ".join([*python, says(WORK / "python/bin/python", "--version"),
                             *map(" ".join, node.items()), "Node " + says("node", "--version")]) + "; one worker per core"],
        ["load", f"wrk {says('wrk', '-v').split()[1]} (full load), bench/tools/src/bin/pace.rs (half load)"]])


def goals(samples, get):
    bare = get("speed", BARE, "answers")
    ours, recorded = get("speed", RECEIVER, "answers"), get("speed", RECEIVER, "recorded")
    best_peer = combine(max, *(get("speed", peer, "recorded") for peer in PEERS))
    slowest = combine(lambda p99, fsync: 3 * p99 + fsync, get("latency", BARE, "p99"), get("latency", "fsync", "p50"))
    levels = levels_of(samples) or ["none", "none"]
    none, with_most = (get("growth", level, "recorded", "bulks of 10") for level in (levels[0], levels[-1]))

    # Each webhook costs the CPU time of a bare response plus COPY's CPU time for the row.
    best = combine(lambda answers, copy_us: 1 / (1 / answers + copy_us / 1e6 / os.cpu_count()), bare,
                   get("backlog", "COPY", "postgres_cpu_us"))

    def most(figures):
        return {0: max(figures.values())} if figures else {}

    rows = [
        ("durable responses per second while PostgreSQL records ÷ bare axum handler", ratio(ours, bare),
         "≥", 0.6, {}),
        ("recorded per second, first request to last commit ÷ bare axum handler", ratio(recorded, bare), "≥", 0.5,
         ratio(best, bare)),
        ("recorded per second ÷ the better of FastAPI and Express", ratio(recorded, best_peer), "≥", 12,
         ratio(best, best_peer)),
        ("p99 at half load ÷ (3 × the bare handler's + one fsync)", ratio(get("latency", RECEIVER, "p99"), slowest),
         "≤", 1, {}),
        (f"recorded per second with {levels[-1]} ÷ with none", ratio(with_most, none), "≥", 0.9, {}),
        (f"draining a backlog of {backlog_of(get)} ÷ COPY of the same rows",
         ratio(get("backlog", RECEIVER, "per_second"), get("backlog", "COPY", "per_second")), "≥", 1, {}),
        ("resident memory, idle, maximum, MiB", most(get("speed", RECEIVER, "idle_mib")), "≤", 15, {}),
        ("resident memory, full load, maximum, MiB", most(get("speed", RECEIVER, "peak_mib")), "≤", 40, {}),
        (f"resident memory, {backlog_of(get)} spooled, MiB", get("backlog", WITHOUT, "spooled_mib"), "≤", 40, {}),
        ("start to first 200, ms", get("start", RECEIVER, "ms"), "≤", 50, {}),
        ("image, MB", get("image", RECEIVER, "mb"), "≤", 40, {})]

    def verdict(figures, sign, goal):
        if not figures:
            return "not measured"
        return "met" if (median(figures) >= goal if sign == "≥" else median(figures) <= goal) else "not met"

    return table(["", "here", "goal", "", "at best"], [
        [what, spread(figures), f"{sign} {goal}", verdict(figures, sign, goal), spread(limit) if limit else ""]
        for what, figures, sign, goal, limit in rows])


def grid(rows, columns):
    """`columns`: heading, and a function from `who, case` of a row to its figures."""
    return table([*("" for _ in rows[0][0]), *columns],
                 [[*names, *(spread(column(who, case)) for column in columns.values())] for names, who, case in rows])


def speed(get):
    def each(figure):
        return lambda who, case: get("speed", who, figure)

    def recorded(figure):
        return lambda who, case: {} if who in (BARE, WITHOUT) else get("speed", who, figure)

    def of_bare(column):
        return lambda who, case: ratio(column(who, case), get("speed", BARE, "answers"))

    return grid([((who,), who, None) for who in (BARE, RECEIVER, WITHOUT, *PEERS)], {
        "answers/s": each("answers"), "÷ bare": of_bare(each("answers")),
        "recorded/s": recorded("recorded"), "÷ bare's answers": of_bare(recorded("recorded")),
        "p50 ms": each("p50"), "p99 ms": each("p99"), "p99.9 ms": each("p999"), "not 200": each("errors"),
        "CPU µs each": each("cpu_us"), "PostgreSQL's": recorded("postgres_cpu_us"),
        "WAL bytes each": recorded("wal_bytes"), "peak MiB": each("peak_mib")})


def latency(get):
    def each(figure):
        return lambda who, case: get("latency", who, figure)

    return grid([((who,), who, None) for who in (BARE, BESIDE, RECEIVER, *PEERS, "fsync")], {
        "per second": each("rate"), "p50 ms": each("p50"), "p99 ms": each("p99"), "p99.9 ms": each("p999"),
        "not 200": each("errors")})


def sustained(get):
    def each(figure):
        return lambda _, case: get("sustained", RECEIVER, figure, case)

    def of_bare(_, case):
        return ratio(get("sustained", RECEIVER, "answers", case), get("speed", BARE, "answers"))

    cases = ("full load", "half load")
    return get("sustained", RECEIVER, "p50") and grid([((case,), None, case) for case in cases], {
        "answers/s": each("answers"), "÷ bare": of_bare, "recorded/s meanwhile": each("recorded"), "p50 ms": each("p50"),
        "p99 ms": each("p99"), "p99.9 ms": each("p999"), "not 200": each("errors"), "peak MiB": each("peak_mib")})


def slow(get):
    def each(figure):
        return lambda _, case: get("slow", RECEIVER, figure, case)

    def beside(figure):
        return lambda _, case: ratio(get("slow", RECEIVER, figure, case), get("slow", RECEIVER, figure, "alone"))

    cases = ("alone", "beside slow senders")
    return get("slow", RECEIVER, "p50", "alone") and grid([((case,), None, case) for case in cases], {
        "p50 ms": each("p50"), "÷ alone": beside("p50"), "p99 ms": each("p99"), "p99 ÷ alone": beside("p99"),
        "not 200": each("errors")})


def across(samples, get, measure):
    def each(who, figure="answers"):
        return lambda _, case: get(measure, who, figure, case)

    cases = list(dict.fromkeys(s["case"] for s in samples if s["measure"] == measure))
    return cases and grid([((case,), None, case) for case in cases], {
        **{who: each(who) for who in (BARE, RECEIVER, *PEERS)},
        "÷ bare": lambda _, case: ratio(each(RECEIVER)(_, case), each(BARE)(_, case)),
        "its p99 ms": each(RECEIVER, "p99"), "its not 200": each(RECEIVER, "errors")})


def backlog_of(get):
    return f"{median(get('backlog', WITHOUT, 'spooled') or {0: 0}):,.0f}"


def backlog(get):
    def each(figure):
        return lambda who, case: get("backlog", who, figure)

    return grid([((who,), who, None) for who in (RECEIVER, "COPY", WITHOUT)], {
        "rows/s": each("per_second"), "CPU µs each": each("cpu_us"), "PostgreSQL's": each("postgres_cpu_us"),
        "peak MiB": each("peak_mib"), "start with it, s": each("start_s"), "MiB with it": each("spooled_mib"),
        "MiB after a start with it": each("restarted_mib")})


def levels_of(samples):
    """The levels of the measure `growth`, ascending."""
    names = {s["who"] for s in samples if s["measure"] == "growth"}
    return sorted(names, key=lambda name: int(name.split()[0].replace(",", "")))


def growth(samples, get):
    def each(figure):
        return lambda level, case: get("growth", level, figure, case)

    levels = levels_of(samples)
    cases = dict.fromkeys(s["case"] for s in samples if s["measure"] == "growth")
    return levels and grid([((level, case), level, case) for case in cases for level in levels], {
        "answers/s": each("answers"), "recorded/s": each("recorded"),
        "÷ with none": lambda level, case: ratio(each("recorded")(level, case), each("recorded")(levels[0], case)),
        "p50 ms": each("p50"), "p99 ms": each("p99"), "CPU µs each": each("cpu_us"),
        "PostgreSQL's": each("postgres_cpu_us"), "WAL bytes each": each("wal_bytes")})


def questions(samples, get):
    cases = dict.fromkeys((s["who"], s["case"]) for s in samples if s["measure"] == "questions" and "ms" in s)
    during = {case: get("questions", RECEIVER, "p99", case) for case in ("none asked", "asked")}
    recorded = ratio(*(get("questions", RECEIVER, "recorded", case) for case in ("asked", "none asked")))
    return cases and [
        *grid([((who, f"`{case}`" if who in ("API", "console") else case), who, case) for who, case in cases], {
            "ms": lambda who, case: get("questions", who, "ms", case)}), "",
        f"Recorded per second ÷ without queries: {spread(recorded)}; p99 of responses to webhooks, ms: "
        + "; ".join(f"{label} {spread(during[case])}" for label, case in (
            ("without queries", "none asked"), ("with queries", "asked"))) + "."]


def picture(samples, get):
    kinds = {BARE: "limit", RECEIVER: "ours"}

    def rows(measure, figure, who):
        return [(kinds.get(name, "peer"), name, get(measure, name, figure)) for name in who]

    return draw.bars([
        ("Responses 200 per second (256 connections, 672 bytes)", rows("speed", "answers", (BARE, RECEIVER, *PEERS))),
        ("Recorded per second, first request to last commit", rows("speed", "recorded", (RECEIVER, *PEERS))),
        ("CPU time per webhook, µs", rows("speed", "cpu_us", (BARE, RECEIVER, *PEERS))),
        ("p99 at half of the full load, ms", rows("latency", "p99", (BARE, RECEIVER, *PEERS))),
        ("Recorded per second, by number of executions already recorded", [
            ("ours", level, get("growth", level, "recorded", "bulks of 10")) for level in levels_of(samples)])])
