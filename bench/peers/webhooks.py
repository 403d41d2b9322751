"""FastAPI + asyncpg, a typical implementation that commits each webhook before its 200.
It has no bulk counts, conflicts or quarantine, so it does less work than the receiver."""

import json
import os
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg
from fastapi import FastAPI, HTTPException, Request

INSERT = """
    INSERT INTO executions (execution_id, workflow_id, bulk_id, status, started_at, completed_at, output, error,
        error_cause, total_cost, payload, deliveries, first_received_at, last_received_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 1, now(), now())
    ON CONFLICT (execution_id) DO UPDATE SET
        deliveries = executions.deliveries + 1, last_received_at = excluded.last_received_at"""


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


def moment(text):
    return text and datetime.fromisoformat(text)


@app.post("/webhooks/workflow-completed")
async def receive(request: Request):
    body = await request.body()
    try:
        e = json.loads(body)
        required = e["execution_id"], e["workflow_id"], e.get("bulk_id"), e["status"]
    except (ValueError, KeyError):
        raise HTTPException(422, "not an execution")
    await request.app.state.pool.execute(
        INSERT, *required, moment(e.get("started_at")), moment(e.get("completed_at")),
        json.dumps(e.get("output")), e.get("error"), e.get("error_cause"), e.get("total_cost"), body.decode())
    return {"received": True}
