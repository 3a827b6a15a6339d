"""Typed jobs, a workflow and a schedule, in every process of a web application.

    pip install 'taquba[starlette]' taquba-jobs taquba-workflow taquba-cron fastapi uvicorn
    STORE=./data uvicorn examples.orders_fastapi:app --workers 4

    curl -X POST localhost:8000/orders/17 -d '{"item": "chair", "quantity": 2}' \\
        -H 'content-type: application/json'
    curl -X POST localhost:8000/orders/17/approval
    curl localhost:8000/orders/17

Each process has the same objects. An order waits for its approval, which any process may be asked
for; its invoice is a typed job, and every night a report is made. Whatever runs, runs in one of
the processes, and goes on in another one if that dies.

Web processes that only ask, and three that work, on the same machine:

    ROLE=producer STORE=./data uvicorn examples.orders_fastapi:app --workers 4
    STORE=./data taquba run examples.orders_fastapi:service --processes 3
"""

from __future__ import annotations

import asyncio
import os
from typing import Literal, cast

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from taquba import JobRecord, LeaseHandle, Service
from taquba.integrations.starlette import service_lifespan
from taquba_cron import CronScheduler
from taquba_jobs import JobContext, JobRunner, job
from taquba_workflow import (
    InputMismatch,
    StartOptions,
    WorkflowContext,
    WorkflowRuntime,
    workflow,
)


class Order(BaseModel):
    item: str
    quantity: int = Field(ge=1)


class Invoice(BaseModel):
    order_id: str
    text: str
    pid: int


@job(name="invoice", idempotency_key=lambda order_id, order: order_id)
async def write_invoice(ctx: JobContext[None], order_id: str, order: Order) -> Invoice:
    for number in range(order.quantity):
        await asyncio.sleep(0.01)
        ctx.progress(number + 1, order.quantity)
    return Invoice(order_id=order_id, text=f"{order.quantity} {order.item}", pid=os.getpid())


async def invoiced(order_id: str, order: Order) -> Invoice:
    """A step of the workflow: the same submission again, after a crash, is the same job."""
    return await (await jobs.submit(write_invoice, order_id, order))


@workflow(name="order")
async def handle_order(ctx: WorkflowContext, order_id: str, order: Order) -> Invoice | None:
    approval = await ctx.wait_signal(f"approval/{order_id}", timeout=24 * 3600)
    if approval is None:
        return None
    return await ctx.step(invoiced, order_id, order)


async def make_report(job: JobRecord, lease: LeaseHandle) -> None:
    """A plain handler asks for the handle that it runs under."""
    done = (await lease.store.stats("jobs")).done
    await lease.store.kv_put("report", f"{done} invoices".encode())


ROLE = cast("Literal['auto', 'producer']", os.environ.get("ROLE", "auto"))

service = Service(
    os.environ.get("STORE", "./data"), {"reports": make_report}, role=ROLE, drain_timeout=5
)
jobs = JobRunner(service, jobs=[write_invoice], drain_timeout=5)
flows = WorkflowRuntime(service, workflows=[handle_order])
cron = CronScheduler(service)
cron.schedule("nightly report", os.environ.get("REPORT_AT", "30 2 * * *"), "reports", b"")

# A process that only asks runs none of it.
parts = () if ROLE == "producer" else (jobs, flows, cron)
app = FastAPI(lifespan=service_lifespan(service, *parts))


@app.post("/orders/{order_id}", status_code=202)
async def post_order(order_id: str, order: Order) -> str:
    """Whoever got no answer may post again: it is one order."""
    try:
        run = await flows.start_with(StartOptions(run_id=order_id), handle_order, order_id, order)
    except InputMismatch as error:
        raise HTTPException(409, str(error)) from error
    return run.run_id


@app.post("/orders/{order_id}/approval", status_code=202)
async def approve(order_id: str) -> str:
    """Any process takes it, wherever the order waits."""
    outcome = await flows.signal(f"approval/{order_id}")
    return outcome.value


@app.get("/orders/{order_id}")
async def get_order(order_id: str) -> dict[str, object]:
    run = flows.handle(handle_order, order_id)
    status = await run.status()
    if status is None:
        raise HTTPException(404, f"no order {order_id}")
    invoice = await run.fetch_result()
    return {"state": status.state.value, "invoice": invoice, "asked": os.getpid()}


@app.get("/report")
async def get_report() -> str:
    return (await service.kv_get("report") or b"no report yet").decode()


@app.get("/schedules")
async def get_schedules() -> list[str]:
    return [info.name for info in await cron.schedules()]
