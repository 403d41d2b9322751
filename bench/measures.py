"""The measures. Each adds its figures to the bench; report.py computes ratios."""

import contextlib
import http.client
import itertools
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import load
import questions
import servers
from process import ROOT, WORK
from servers import AWAY, SPOOL, Receiver

DATABASE = "bench"
BARE, RECEIVER = "bare handler", "workflow-receiver"
WITHOUT = "…, PostgreSQL away"
BESIDE = "bare handler, beside COPY"
KEPT = WORK / "backlog"
ROWS = WORK / "rows.copy"


def participants(bench, away=False):
    bench.postgres.make(DATABASE)
    everyone = servers.everyone(bench.postgres, DATABASE)
    return everyone | ({WITHOUT: lambda: Receiver(AWAY)} if away else {})


@contextlib.contextmanager
def fresh(bench, participant):
    """A server with empty tables. The peers get two seconds of load first, because their runtimes compile hot code."""
    bench.postgres.empty(DATABASE)
    with participant() as server:
        if not isinstance(server, Receiver):
            load.full(server.port, 2)
            bench.postgres.empty(DATABASE)
        yield server


def speed(bench):
    """Full load: responses per second, recorded per second, latency, CPU, memory."""
    for round, name, participant in bench.in_turns(participants(bench, away=True)):
        with fresh(bench, participant) as server:
            bench.add("speed", name, round, **under_load(bench, server, DATABASE))


def under_load(bench, server, database, **kind):
    """Full load, until the last delivery is committed."""
    postgres, already = bench.postgres, bench.postgres.rows(database)
    before = server.cpu(), postgres.cpu(), postgres.wal(), server.memory()
    begun = time.monotonic()
    figures = load.full(server.port, bench.seconds, **kind)
    answered, count, ended = figures["requests"], figures["requests"], time.monotonic()
    if isinstance(server, Receiver) and server.records:
        answered, (count, ended) = server.answered(), server.wait_recorded()
    figures["recorded"] = count / (ended - begun)
    figures["cpu_us"] = (server.cpu() - before[0]) / count * 1e6
    figures["postgres_cpu_us"] = (postgres.cpu() - before[1]) / count * 1e6
    figures["wal_bytes"] = (postgres.wal() - before[2]) / count
    if server.records and postgres.rows(database) - already < answered:
        # The figures would be meaningless.
        raise SystemExit(f"answered {answered}, but recorded {postgres.rows(database) - already}")
    return figures | {"idle_mib": before[3], "peak_mib": server.memory("VmHWM")}


def latency(bench):
    """Half of each server's full load; the bare handler runs at half of the receiver's, for comparison."""
    full = {who: bench.median("speed", who, "answers") for who in (RECEIVER, "FastAPI", "Express")}
    full[BARE] = full[RECEIVER]
    for round, name, participant in bench.in_turns(participants(bench)):
        if name == BARE:
            bench.add("latency", "fsync", round, **load.fsync_loop())
        rate = full[name] / 2
        with fresh(bench, participant) as server:
            bench.add("latency", name, round, rate=rate, **load.paced(server.port, bench.seconds, rate))
            if name == RECEIVER:
                server.wait_recorded()
                bench.postgres.sql(DATABASE, f"\\copy executions TO '{ROWS}'")
        if name == RECEIVER:
            with fresh(bench, participants(bench)[BARE]) as server, ThreadPoolExecutor() as pool:
                copied = pool.submit(paced_copy, bench, rate)
                bench.add("latency", BESIDE, round, rate=rate, **load.paced(server.port, bench.seconds, rate))
                copied.result()
            ROWS.unlink()


def paced_copy(bench, rate):
    """Copies the rows in ROWS with COPY, `rate` rows per second."""
    with bench.postgres.copying(DATABASE, "executions") as copying, ROWS.open("rb") as rows:
        begun, sent = time.monotonic(), 0
        while time.monotonic() - begun < bench.seconds:
            due = int((time.monotonic() - begun) * rate)
            copying.stdin.writelines(itertools.islice(rows, due - sent))
            copying.stdin.flush()
            sent = due
            time.sleep(0.01)


def sustained(bench):
    """A sustained load, measured after the backlog is too old for throttling."""
    rate = bench.median("speed", RECEIVER, "answers") / 2
    bench.postgres.make(DATABASE)
    cases = {"full load": load.full, "half load": lambda port, seconds: load.paced(port, seconds, rate)}
    for round, case, loaded in bench.in_turns(cases):
        bench.postgres.empty(DATABASE)
        with Receiver(bench.postgres.url(DATABASE)) as server:
            loaded(server.port, 12)
            begun, before = time.monotonic(), server.recorded()
            figures = loaded(server.port, bench.seconds)
            figures["recorded"] = (server.recorded() - before) / (time.monotonic() - begun)
            bench.add("sustained", RECEIVER, round, case, **figures, peak_mib=server.memory("VmHWM"))


def slow(bench):
    """Normal senders at a constant rate, alone and beside 2,000 connections that send one byte per second."""
    bench.postgres.make(DATABASE)
    for round in range(bench.rounds):
        for case in ("alone", "beside slow senders")[:: -1 if round % 2 else 1]:
            bench.postgres.empty(DATABASE)
            with Receiver(bench.postgres.url(DATABASE)) as server, slow_senders(server.port, case) as senders:
                bench.add("slow", RECEIVER, round, case, **load.paced(server.port, bench.seconds, 4000, 64))
                if senders and senders.poll() is not None:
                    raise SystemExit("the slow senders have ended")


@contextlib.contextmanager
def slow_senders(port, case):
    if case == "alone":
        yield None
        return
    command = [sys.executable, ROOT / "bench/slow.py", str(port), "2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as senders:
        senders.stdout.readline()
        try:
            yield senders
        finally:
            senders.kill()


def variants(bench, measure, cases):
    """Full load in several variants. Each server is restarted for each variant."""
    for round, name, participant in bench.in_turns(participants(bench), bench.fewer_rounds):
        for case, kind in cases.items():
            with fresh(bench, participant) as server:
                bench.add(measure, name, round, case, **load.full(server.port, bench.fewer_seconds, **kind))


def connections(bench):
    """1 to 1,000 connections, kept open, or a new one for every webhook."""
    kept = {f"{count}, kept open": {"connections": count} for count in bench.connections}
    new = {f"{count}, new each time": {"connections": count, "close": True} for count in bench.connections[1::2]}
    variants(bench, "connections", kept | new)


def bodies(bench):
    """The examples of the sender's documentation, and bodies of 0.3 to 300 KB."""
    variants(bench, "bodies", {case: {"bodies": case} for case in ("page", "mixed")})


def start(bench):
    """Time from the start of the process to the first 200, with a running database and an empty spool."""
    bench.postgres.make(DATABASE)
    body = (ROOT / "tests/payloads/completed.json").read_bytes()
    for round in range(bench.rounds * 4):
        server = Receiver(bench.postgres.url(DATABASE))
        begun = time.perf_counter()
        server.spawn()
        try:
            while server.alive() and not posted(server.port, body):
                time.sleep(0.0005)
            bench.add("start", RECEIVER, round, ms=(time.perf_counter() - begun) * 1000)
        finally:
            server.__exit__()


def posted(port, body):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/webhooks/workflow-completed", body)
        return connection.getresponse().status == 200
    except OSError:
        return False


def keep_backlog(bench):
    """Creates the backlog of an outage in KEPT. Returns the receiver's memory, in MiB."""
    shutil.rmtree(KEPT, ignore_errors=True)
    with Receiver(AWAY) as server:
        while server.metric("spool_depth") < bench.backlog:
            load.full(server.port, 3)
        memory = server.memory()
        server.stop()
        SPOOL.rename(KEPT)
    return memory


def backlog(bench):
    """A backlog after an outage: memory, start time, recording, and COPY of the same rows."""
    memory = keep_backlog(bench)
    bench.postgres.make(DATABASE)
    for round in range(bench.rounds):
        with Receiver(AWAY, KEPT) as server:
            spooled = server.metric("spool_depth")
            bench.add("backlog", WITHOUT, round, start_s=server.started_in, spooled=spooled, spooled_mib=memory,
                      restarted_mib=server.memory())
        bench.postgres.empty(DATABASE)
        with Receiver(bench.postgres.url(DATABASE), KEPT) as server:
            begun, before, cpu = time.monotonic(), server.recorded(), (server.cpu(), bench.postgres.cpu())
            count, ended = server.wait_recorded()
            each = 1e6 / (count - before)
            bench.add("backlog", RECEIVER, round, per_second=(count - before) / (ended - begun),
                      cpu_us=(server.cpu() - cpu[0]) * each, postgres_cpu_us=(bench.postgres.cpu() - cpu[1]) * each,
                      peak_mib=server.memory("VmHWM"))
        if bench.postgres.rows(DATABASE) != spooled:
            raise SystemExit(f"{spooled} were spooled, {bench.postgres.rows(DATABASE)} are recorded")
        if not round:
            bench.postgres.sql(DATABASE, f"\\copy executions TO '{ROWS}'")
        bench.postgres.empty(DATABASE)
        bench.add("backlog", "COPY", round, **copy(bench, DATABASE, spooled))
    ROWS.unlink()
    shutil.rmtree(KEPT)


def copy(bench, database, count):
    """Copies the rows in ROWS with COPY."""
    begun, cpu = time.monotonic(), bench.postgres.cpu()
    bench.postgres.sql(database, f"\\copy executions FROM '{ROWS}'")
    took = time.monotonic() - begun
    return {"per_second": count / took, "postgres_cpu_us": (bench.postgres.cpu() - cpu) / count * 1e6}


def copied_anew(bench, database):
    """Removes the rows recorded since the database was created, and writes them again with COPY."""
    came = f"SELECT * FROM executions WHERE first_received_at > '{bench.postgres.made[database]}'"
    count = int(bench.postgres.sql(database, f"SELECT count(*) FROM ({came}) AS came"))
    bench.postgres.sql(database, f"\\copy ({came}) TO '{ROWS}'")
    bench.postgres.as_made(database)
    figures = copy(bench, database, count)
    ROWS.unlink()
    return figures


def growth(bench):
    """The cost of a webhook with many executions recorded, in large bulks, and while a backlog is drained."""
    keep_backlog(bench)
    for level in bench.levels:
        print(f"recording {level:,} executions", flush=True)
        bench.postgres.make(f"bench_{level}", level)
    rate = None
    levels = {f"{level:,} recorded": level for level in bench.levels}
    for round, name, level in bench.in_turns(levels, bench.fewer_rounds):
        database = f"bench_{level}"
        for bulk in 10, 100_000:
            bench.postgres.as_made(database)
            with Receiver(bench.postgres.url(database)) as server:
                figures = under_load(bench, server, database, bulk=bulk)
            bench.add("growth", name, round, f"bulks of {bulk:,}", **figures)
            rate = rate or figures["answers"] / 2
            if bulk == 10:
                copied = copied_anew(bench, database)
                bench.add("growth", name, round, "COPY", recorded=copied.pop("per_second"), **copied)
        for case, kept in ("half load", None), ("half load, backlog", KEPT):
            bench.postgres.as_made(database)
            with Receiver(bench.postgres.url(database), kept) as server:
                begun, before = time.monotonic(), server.recorded()
                figures = load.paced(server.port, bench.seconds, rate)
                figures["recorded"] = (server.recorded() - before) / (time.monotonic() - begun)
            bench.add("growth", name, round, case, **figures)
    ask(bench, f"bench_{bench.levels[-1]}", rate)
    for level in bench.levels:
        bench.postgres.sql("postgres", f"DROP DATABASE bench_{level}")
    shutil.rmtree(KEPT)


def ask(bench, database, rate):
    """Operators' queries with the most executions recorded: half load without queries, then with continuous queries."""
    bench.forget("questions")
    asked = questions.all_of(bench.postgres, database)
    for case in "none asked", "asked":
        bench.postgres.as_made(database)
        with Receiver(bench.postgres.url(database)) as server, ThreadPoolExecutor() as pool:
            begun, before = time.monotonic(), server.recorded()
            paced = pool.submit(load.paced, server.port, 2 * bench.seconds, rate)
            round = 0
            while case == "asked" and not paced.done():
                for question in asked:
                    bench.add("questions", question.kind, round, question.name, ms=question.ask(server))
                round += 1
            figures = paced.result()
            figures["recorded"] = (server.recorded() - before) / (time.monotonic() - begun)
        bench.add("questions", RECEIVER, 0, case, **figures)


def image(bench):
    """The size of the container image, if Docker is available and the run is not quick."""
    if bench.quick or not shutil.which("docker"):
        return
    build = subprocess.run(["docker", "build", "-q", ROOT], stdout=subprocess.PIPE, text=True)
    if build.returncode == 0:
        size = ["docker", "image", "inspect", "-f", "{{.Size}}", build.stdout.strip()]
        bench.add("image", RECEIVER, 0, mb=int(subprocess.check_output(size)) / 1e6)


ALL = {measure.__name__: measure for measure in (
    speed, latency, sustained, slow, connections, bodies, start, backlog, growth, image)}
