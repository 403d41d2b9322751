"""Queries of operators: every query of docs/operators.md, every list and item of the API, and every page of the console."""

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

    kind, prefix = "API", "/api/v1/"

    def __init__(self, name):
        self.name = name

    def ask(self, server):
        begun = time.perf_counter()
        server.admin(self.prefix + self.name)
        return (time.perf_counter() - begun) * 1000


class Page(Api):
    """A page of the console, without the results that it shows."""

    kind, prefix = "console", "/"


def all_of(postgres, database):
    """All queries, with a workflow, a bulk, an execution and a cause of failure that exist in the database."""
    row = "SELECT workflow_id, bulk_id, execution_id, error_cause FROM failures ORDER BY first_received_at DESC LIMIT 1"
    workflow, bulk, execution, cause = postgres.sql(database, row).split("|")
    prediction = postgres.sql(database, "SELECT prediction_id FROM latest_predictions LIMIT 1")
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
             "conflicts", "quarantine",
             "executions?reference=order%3D1230", "results?reference=user%3D1230", "failures?by=model", "predictions",
             "predictions?status=failed", f"predictions/{prediction}", "expected", "changes")
    pages = ("", "?period=7d", "executions", "executions?status=failed", f"executions?workflow={workflow}",
             f"executions?q={quoted}", "executions?q=order%3D1230", "executions?q=order%3Dnone", "executions?q=rate_limit",
             "executions?class=provider_auth", "executions?fault=provider", "executions?model=flux-1-1-pro",
             f"executions/{execution}", "bulks", f"bulks?open={bulk[:8]}", f"bulks/{bulk}",
             "predictions", "predictions?q=refused", "predictions?class=provider_auth", f"predictions/{prediction}", "expected",
             "conflicts", "quarantine", "quarantine?q=order", "settings", "audit", "docs")
    return found + [Api(name) for name in lists] + [Page(name) for name in pages]
