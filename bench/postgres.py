"""The PostgreSQL that all servers use: the receiver's private one, unchanged. An idle receiver keeps it running while the
measured servers are started and stopped."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

from process import ROOT, WORK, Process

RECEIVER = ROOT / "target/release/workflow-receiver"


class Postgres(Process):
    def __init__(self):
        super().__init__(
            [RECEIVER], 28000, RECEIVER__HTTP__LISTEN="127.0.0.1:28000", RECEIVER__ADMIN__LISTEN="127.0.0.1:28001",
            RECEIVER__SPOOL__DIR=WORK / "idle-spool", RECEIVER__DATABASE__PRIVATE_DIR=WORK / "postgres")
        self.data = WORK / "postgres/data"
        self.made = {}

    def spawn(self):
        (WORK / "log").write_text("")
        super().spawn()

    def ready(self):
        """True after it has printed how to open the database."""
        said = re.search(r"(\S+) 'postgres:///\w+\?host=(\S+)&user=(\w+)'", (WORK / "log").read_text())
        if said:
            self.psql, self.host, self.user = said.groups()
            self.version = self.sql("postgres", "SHOW server_version")
            self.data = Path(self.sql("postgres", "SHOW data_directory"))
        return said

    def __exit__(self, *_):
        self.stop()
        for directory in self.data.parent, WORK / "idle-spool", WORK / "postgres":
            shutil.rmtree(directory, ignore_errors=True)

    def url(self, database):
        return f"postgres:///{database}?host={self.host}&user={self.user}"

    def sql(self, database, *statements):
        """Runs each statement in its own transaction. Returns the result of the last one."""
        command = [self.psql, self.url(database), "-XqAt", "-v", "ON_ERROR_STOP=1"]
        for statement in statements:
            command += ["-c", statement]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    @contextlib.contextmanager
    def copying(self, database, table):
        """A COPY that reads rows from its `stdin`."""
        command = [self.psql, self.url(database), "-Xq", "-c", f"\\copy {table} FROM STDIN"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as copying:
            yield copying
        if copying.returncode:
            raise SystemExit("COPY failed")

    def make(self, database, executions=0, program=RECEIVER):
        """Creates a database with the schema of this build of the receiver, and this many old executions."""
        self.sql("postgres", "SET client_min_messages = error", f"DROP DATABASE IF EXISTS {database}",
                 f"CREATE DATABASE {database}")
        subprocess.run([program, "migrate"], env={"DATABASE_URL": self.url(database)}, check=True,
                       stdout=subprocess.DEVNULL)
        for first in range(0, executions, 500_000):
            self.sql(database, FILL.format(first, min(first + 500_000, executions) - 1, executions))
        if executions:
            self.sql(database, *COUNT, PREDICTIONS, "VACUUM ANALYZE")
        self.made[database] = self.sql(database, "SELECT now()")

    def empty(self, database):
        """Removes all rows, and runs the checkpoint that would follow later."""
        # The table of migrations is needed, and quarantine_usage has exactly one row.
        tables = self.sql(database, "SELECT string_agg(tablename, ', ') FROM pg_tables WHERE schemaname = 'public' "
                          "AND tablename !~ 'migrations|quarantine_usage'")
        self.sql(database, f"TRUNCATE {tables}", "CHECKPOINT")

    def as_made(self, database):
        """Removes the rows recorded since the database was created."""
        since = f"WHERE first_received_at > '{self.made[database]}'"
        self.sql(database, f"DELETE FROM executions {since}", f"DELETE FROM bulks {since}",
                 f"DELETE FROM change_batches WHERE recorded_at > '{self.made[database]}'", "VACUUM", "CHECKPOINT")

    def rows(self, database):
        return int(self.sql(database, "SELECT count(*) FROM executions"))

    def wal(self):
        return int(self.sql("postgres", "SELECT pg_current_wal_lsn() - '0/0'").split(".")[0])


# Executions with random ids, of 20 workflows, in bulks of 10, spread over the last 30 days; 5 % failed, and 1 % completed
# with a failed step; a tenth have a reference. Payloads are short, because the cost of a new row grows with the indexes and not with old payloads.
FILL = """
    INSERT INTO executions (execution_id, workflow_id, bulk_id, status, error_cause, total_cost, output, payload,
        reference, step_failed, deliveries, started_at, completed_at, first_received_at, last_received_at)
    SELECT gen_random_uuid(), '50741f40-8621-4d46-8a91-dff4d873be' || 80 + n % 20, md5((n / 10)::text)::uuid,
        CASE WHEN failed THEN 'failed' ELSE 'completed' END,
        CASE WHEN failed THEN 'Step animate failed: cause ' || n % 50 END, 0.05,
        CASE WHEN NOT failed THEN jsonb_build_array('https://storage.googleapis.com/' || n || '.png') END,
        CASE
            WHEN failed OR n % 100 = 1
                THEN '{{"step_outputs":{{"animate":{{"status":"failed","error_cause":"timeout"}}}}}}'::jsonb
            ELSE '{{"filled":true}}'
        END,
        CASE WHEN n % 10 = 0 THEN jsonb_build_object('order', n::text, 'user', (n % 10000)::text) END,
        failed OR n % 100 = 1, 1, at - random() * interval '5 minutes', at, at, at
    FROM (
        SELECT n, n % 20 = n / 20 % 20 AS failed, now() - interval '30 days' * (1 - n::float8 / {2}) AS at
        FROM generate_series({0}, {1}) AS n
    ) AS filled"""
COUNT = ("""
    INSERT INTO bulks (bulk_id, received, completed, failed, first_received_at, last_received_at)
    SELECT bulk_id, count(*), count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
        min(first_received_at), max(first_received_at)
    FROM executions GROUP BY bulk_id""", """
    INSERT INTO workflow_hours (hour, workflow_id, executions, completed, failed, cancelled, other)
    SELECT date_trunc('hour', first_received_at, 'UTC'), workflow_id, count(*),
        count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'), 0, 0
    FROM executions GROUP BY 1, 2""", """
    INSERT INTO workflow_days (day, workflow_id, executions, executions_with_cost, total_cost)
    SELECT (first_received_at AT TIME ZONE 'UTC')::date, workflow_id, count(*), count(total_cost), sum(total_cost)
    FROM executions GROUP BY 1, 2""")
# A prediction for each 20 executions.
PREDICTIONS = """
    INSERT INTO predictions (prediction_id, workflow_id, status, output, error, error_cause, total_cost, duration_seconds,
        payload, deliveries, first_received_at, last_received_at)
    SELECT gen_random_uuid(), workflow_id, CASE status WHEN 'completed' THEN 'succeeded' ELSE status END, output,
        CASE status WHEN 'failed' THEN 'PROVIDER_REJECTED' END, error_cause, total_cost, 4.5, '{"model":"filled"}', 1,
        first_received_at, last_received_at
    FROM executions WHERE hashtext(execution_id) % 20 = 0"""
