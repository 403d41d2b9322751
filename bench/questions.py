"""Queries of operators: every query of docs/operators.md, and every list and item of the API."""

import json
import re
import time
import urllib.parse

from process import ROOT


class Cookbook:
    """A query in SQL. Its time is PostgreSQL's planning and execution time."""

    kind = "cookbook"

    def __init__(self, postgres, database, name, sql):
        self.postgres, self.database, self.name, self.sql = postgres, database, name, sql

    def ask(self, server):
        plan = json.loads(self.postgres.sql(self.database, f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {self.sql}"))[0]
        return plan["Planning Time"] + plan["Execution Time"]


class Api:
    """A query over HTTP. Its time ends with the complete response."""

    kind = "API"

    def __init__(self, name):
        self.name = name

    def ask(self, server):
        begun = time.perf_counter()
        server.admin("/api/v1/" + self.name)
        return (time.perf_counter() - begun) * 1000


def all_of(postgres, database):
    """All queries, with a workflow, a bulk, an execution and a cause of failure that exist in the database."""
    row = "SELECT workflow_id, bulk_id, execution_id, error_cause FROM failures ORDER BY first_received_at DESC LIMIT 1"
    workflow, bulk, execution, cause = postgres.sql(database, row).split("|")
    cookbook = (ROOT / "docs/operators.md").read_text()
    blocks = re.findall(r"## ([^\n]+)|```sql\n(SELECT.*?);\n```", cookbook, re.DOTALL)
    heading, found = "", []
    for title, sql in blocks:
        heading = title or heading
        if sql:
            for shown, there in (("spring-catalogue", bulk), ("product-photos", workflow), ("product-video", workflow)):
                sql = sql.replace(shown, there)
            sql = re.sub(r"'exec-\d+'", f"'{execution}'", sql)
            count = sum(question.name.startswith(heading) for question in found)
            found.append(Cookbook(postgres, database, f"{heading} ({count + 1})", sql))
    quoted = urllib.parse.quote(cause)
    lists = ("overview", "workflows", "executions", "executions?status=failed", f"executions?workflow={workflow}",
             f"executions?workflow={workflow}&status=failed", f"executions?bulk={bulk}", f"executions?cause={quoted}",
             "executions?status=running", f"executions/{execution}", "results", f"results?bulk={bulk}", "bulks",
             "bulks?complete=no", f"bulks/{bulk}", "failures", f"failures?workflow={workflow}", "failures?by=step",
             "conflicts", "quarantine")
    return found + [Api(name) for name in lists]
