"""From samples to results.md and results.svg."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

import draw
from figures import by_round, combine, median, ratio, spread
from measures import RECEIVER, WITHOUT
from process import ROOT

BARE, PEERS = "bare handler", ("FastAPI", "Express")


def write(samples, directory, postgres, quick):
    def get(measure, who, figure, case=None):
        return by_round(samples, measure, who, figure, case)

    kind = "The quick form: few and short rounds, too coarse to conclude from." if quick else "The full form."
    page = [
        "# What `make bench` measured", "", kind + " Medians, with the least and the most of all rounds in brackets. "
        "A ratio is taken within each round. Load, receiver and PostgreSQL share the machine.", "",
        *machine(postgres), "",
        "## The goals", "", *goals(samples, get), "",
        "## Full load", "", "256 connections, bodies of 672 bytes, bulks of 10.", "", *speed(get), "",
        "## Half load", "", "At a constant rate, half of what each answered at full load; the bare handler at the "
        "receiver's rate. Latency counts from when a webhook was due.", "", *latency(get), "",
        "## Connections", "", "Answers a second.", "", *across(samples, get, "connections"), "",
        "## Bodies", "", "Answers a second. *page*: the examples of the sender's documentation; "
        "*mixed*: 0.3 to 300 KB, each order of magnitude as likely.", "", *across(samples, get, "bodies"), "",
        "## Backlog", "", *backlog(get), "",
        "## Growth", "", "*half load, backlog*: while a backlog is drained.", "", *growth(samples, get), ""]
    text = "\n".join(page)
    (directory / "results.md").write_text(text)
    (directory / "results.svg").write_text(picture(samples, get))
    print("\n" + text + f"\nwritten to {directory}/results.md and results.svg")


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def machine(postgres):
    def says(*command):
        try:
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.strip()
        except OSError:
            return "?"

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cargo = (ROOT / "Cargo.lock").read_text()
    crate = {name: re.search(rf'name = "{name}"\nversion = "(.*)"', cargo)[1] for name in ("axum", "tokio")}
    python = (ROOT / "bench/peers/requirements.txt").read_text().replace("==", " ").splitlines()
    node = json.loads((ROOT / "bench/peers/package.json").read_text())["dependencies"]
    return table(["", ""], [
        ["machine", f"{os.cpu_count()} cores, {cpu[1] if cpu else platform.machine()}, {memory:.0f} GiB"],
        ["system", f"Linux {platform.release().partition('-')[0]}, spool on "
                   + says("stat", "-f", "-c", "%T", str(ROOT / "target"))],
        ["receiver", f"{says('git', 'describe', '--always', '--dirty')}, axum {crate['axum']}, tokio {crate['tokio']}, "
                     + says("rustc", "--version")],
        ["PostgreSQL", f"{postgres}, its own defaults: fsync and synchronous_commit on"],
        ["peers", ", ".join([*python, platform.python_implementation() + " " + platform.python_version(),
                             *(f"{name} {version}" for name, version in node.items()),
                             "Node " + says("node", "--version")]) + "; a worker a core"],
        ["load", "wrk " + says("wrk", "-v").split()[1] + " (full load), bench/tools `pace` (constant rate)"]])


def goals(samples, get):
    bare = get("speed", BARE, "answers")
    ours, recorded = get("speed", RECEIVER, "answers"), get("speed", RECEIVER, "recorded")
    best_peer = combine(max, *(get("speed", peer, "recorded") for peer in PEERS))
    slowest = combine(lambda p99, fsync: 3 * p99 + fsync, get("latency", BARE, "p99"), get("latency", "fsync", "p50"))
    levels = levels_of(samples) or ["none", "none"]
    none, most = (get("growth", level, "recorded", "bulks of 10") for level in (levels[0], levels[-1]))
    rows = [
        ("durable answers a second, PostgreSQL recording beside it ÷ bare axum handler", ratio(ours, bare), "≥", 0.6),
        ("recorded a second, first request to last commit ÷ bare axum handler", ratio(recorded, bare), "≥", 0.5),
        ("recorded a second ÷ the better of FastAPI and Express", ratio(recorded, best_peer), "≥", 12),
        ("p99 at half load ÷ (3 × the bare handler's + one fsync)", ratio(get("latency", RECEIVER, "p99"), slowest), "≤", 1),
        (f"recorded a second with {levels[-1]} ÷ with none", ratio(most, none), "≥", 0.9),
        (f"draining a backlog of {backlog_of(get)} ÷ COPY of the same rows",
         ratio(get("backlog", RECEIVER, "per_second"), get("backlog", "COPY", "per_second")), "≥", 1),
        ("resident memory, idle, MiB", get("speed", RECEIVER, "idle_mib"), "≤", 15),
        ("resident memory, full load, at most, MiB", get("speed", RECEIVER, "peak_mib"), "≤", 40),
        (f"resident memory, {backlog_of(get)} spooled, MiB", get("backlog", WITHOUT, "spooled_mib"), "≤", 40),
        ("start to first 200, ms", get("start", RECEIVER, "ms"), "≤", 50),
        ("image, MB", get("image", RECEIVER, "mb"), "≤", 40)]

    def verdict(figures, sign, goal):
        if not figures:
            return "not measured"
        return "met" if (median(figures) >= goal if sign == "≥" else median(figures) <= goal) else "not met"

    return table(["", "here", "goal", ""], [
        [what, spread(figures), f"{sign} {goal}", verdict(figures, sign, goal)] for what, figures, sign, goal in rows])


def speed(get):
    bare = get("speed", BARE, "answers")
    head = ["", "answers/s", "÷ bare", "recorded/s", "÷ bare", "p50 ms", "p99 ms", "p99.9 ms", "not 200",
            "CPU µs each", "PostgreSQL's", "WAL bytes each", "peak MiB"]
    rows = []
    for who in (BARE, RECEIVER, WITHOUT, *PEERS):
        each = {figure: get("speed", who, figure) for figure in (
            "answers", "recorded", "p50", "p99", "p999", "errors", "cpu_us", "postgres_cpu_us", "wal_bytes", "peak_mib")}
        if who in (BARE, WITHOUT):
            each |= dict.fromkeys(("recorded", "postgres_cpu_us", "wal_bytes"), {})
        cells = {figure: spread(values) for figure, values in each.items()}
        cells["errors"] = str(sum(each["errors"].values()))
        answers, recorded = cells.pop("answers"), cells.pop("recorded")
        rows.append([who, answers, spread(ratio(each["answers"], bare)), recorded,
                     spread(ratio(each["recorded"], bare)), *cells.values()])
    return table(head, rows)


def latency(get):
    rows = [[who, *(spread(get("latency", who, figure)) for figure in ("rate", "p50", "p99", "p999")),
             str(sum(get("latency", who, "errors").values()))] for who in (BARE, RECEIVER, *PEERS)]
    fsync = ["one fsync", spread(get("latency", "fsync", "per_second")), spread(get("latency", "fsync", "p50")),
             spread(get("latency", "fsync", "p99")), "", ""]
    return table(["", "a second", "p50 ms", "p99 ms", "p99.9 ms", "not 200"], [*rows, fsync])


def across(samples, get, measure):
    cases = list(dict.fromkeys(s["case"] for s in samples if s["measure"] == measure))
    rows = []
    for case in cases:
        each = [get(measure, who, "answers", case) for who in (BARE, RECEIVER, *PEERS)]
        rows.append([case, *map(spread, each), spread(ratio(each[1], each[0])), spread(get(measure, RECEIVER, "p99", case)),
                     str(sum(get(measure, RECEIVER, "errors", case).values()))])
    return table(["", BARE, RECEIVER, *PEERS, "÷ bare", "its p99 ms", "its not 200"], rows)


def backlog_of(get):
    return f"{median(get('backlog', WITHOUT, 'spooled') or {0: 0}):,.0f}"


def backlog(get):
    return table([f"{backlog_of(get)} spooled", ""], [
        ["recorded a second", spread(get("backlog", RECEIVER, "per_second"))],
        ["COPY of the same rows into the same table, rows a second", spread(get("backlog", "COPY", "per_second"))],
        ["CPU µs a row: receiver, PostgreSQL; COPY's PostgreSQL", ", ".join(
            spread(get("backlog", who, figure)) for who, figure in (
                (RECEIVER, "cpu_us"), (RECEIVER, "postgres_cpu_us"), ("COPY", "postgres_cpu_us")))],
        ["start with it, s", spread(get("backlog", WITHOUT, "start_s"))],
        ["memory with it, MiB", spread(get("backlog", WITHOUT, "spooled_mib"))],
        ["memory after a start with it, MiB", spread(get("backlog", WITHOUT, "restarted_mib"))],
        ["peak memory while it is recorded, MiB", spread(get("backlog", RECEIVER, "peak_mib"))]])


def levels_of(samples):
    """Those who growth is measured with, in rising order."""
    names = {s["who"] for s in samples if s["measure"] == "growth"}
    return sorted(names, key=lambda name: int(name.split()[0].replace(",", "")))


def growth(samples, get):
    levels, rows = levels_of(samples), []
    for case in dict.fromkeys(s["case"] for s in samples if s["measure"] == "growth"):
        for level in levels:
            each = [get("growth", level, figure, case)
                    for figure in ("answers", "recorded", "p50", "p99", "cpu_us", "postgres_cpu_us", "wal_bytes")]
            against = get("growth", levels[0], "recorded", case)
            rows.append([level, case, spread(each[0]), spread(each[1]), spread(ratio(each[1], against)), *map(spread, each[2:])])
    return table(["", "", "answers/s", "recorded/s", "÷ with none", "p50 ms", "p99 ms", "CPU µs each", "PostgreSQL's",
                  "WAL bytes each"], rows)


def picture(samples, get):
    kinds = {BARE: "limit", RECEIVER: "ours"}

    def rows(measure, figure, who):
        return [(kinds.get(name, "peer"), name, get(measure, name, figure)) for name in who]

    return draw.bars([
        ("Answered 200 a second (256 connections, 672 bytes)", rows("speed", "answers", (BARE, RECEIVER, *PEERS))),
        ("Recorded in PostgreSQL a second, first request to last commit", rows("speed", "recorded", (RECEIVER, *PEERS))),
        ("CPU time a webhook, µs", rows("speed", "cpu_us", (BARE, RECEIVER, *PEERS))),
        ("p99 at half of the full load, ms", rows("latency", "p99", (BARE, RECEIVER, *PEERS))),
        ("Recorded a second, by what is recorded already", [
            ("ours", level, get("growth", level, "recorded", "bulks of 10")) for level in levels_of(samples)])])
