"""A web application whose requests start background jobs: submit, look, wait, cancel.

    pip install 'taquba[starlette]' taquba-jobs fastapi uvicorn
    STORE=./data uvicorn examples.jobs_fastapi:app --workers 4

    curl -X POST localhost:8000/reports -d '{"customer": "acme", "month": "2030-01"}' \\
        -H 'content-type: application/json'
    curl localhost:8000/reports/<id>
    curl localhost:8000/reports/<id>/result?wait=10

The processes of the server share the store: what one of them is asked for runs in any of them, and
any of them can be asked how far it is.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

from taquba import CancelOutcome, JobNotFound, Service
from taquba.integrations.starlette import service_lifespan
from taquba_jobs import InputMismatch, JobContext, JobFailed, JobRunner, JobState, job


class Order(BaseModel):
    """A request for a report."""

    customer: str
    month: str = Field(pattern=r"^\d{4}-\d{2}$")
    pages: int = Field(default=3, ge=1, le=1000)


class Report(BaseModel):
    customer: str
    month: str
    text: str


@dataclass
class Deps:
    """What the jobs need; a real application has its clients and pools here."""

    seconds_per_page: float


# The same order again, from an impatient user or a client that retries, is the same report.
@job(
    name="report",
    max_attempts=5,
    idempotency_key=lambda order: f"{order.customer}/{order.month}",
)
async def make_report(ctx: JobContext[Deps], order: Order) -> Report:
    pages: list[str] = []
    for number in range(1, order.pages + 1):
        await asyncio.sleep(ctx.state.seconds_per_page)
        pages.append(f"page {number} of {order.customer}")
        ctx.progress(number, order.pages, f"wrote page {number}")
    return Report(customer=order.customer, month=order.month, text="\n".join(pages))


service = Service(os.environ.get("STORE", "./data"))
runner = JobRunner(
    service,
    jobs=[make_report],
    state=Deps(seconds_per_page=float(os.environ.get("SECONDS_PER_PAGE", "0.5"))),
    # What still runs after five seconds goes back, and is run by another process.
    drain_timeout=5,
)
app = FastAPI(lifespan=service_lifespan(service, runner))


class Status(BaseModel):
    id: str
    state: JobState
    done: float | None = None
    total: float | None = None
    note: str | None = None


@app.post("/reports", status_code=202)
async def order_report(order: Order, response: Response) -> Status:
    """Answer as soon as the job is durable."""
    try:
        handle = await runner.submit(make_report, order)
    except InputMismatch as error:
        raise HTTPException(409, str(error)) from error
    response.headers["location"] = f"/reports/{handle.id}"
    return await look(handle.id)


@app.get("/reports/{job_id}")
async def look(job_id: str) -> Status:
    handle = runner.handle(make_report, job_id)
    state = await handle.status()
    if state is None:
        raise HTTPException(404, f"no report {job_id}")
    progress = await handle.progress()
    if progress is None:
        return Status(id=job_id, state=state)
    return Status(
        id=job_id, state=state, done=progress.done, total=progress.total, note=progress.note
    )


@app.get("/reports/{job_id}/result")
async def wait_for_result(job_id: str, wait: float = 10) -> Report:
    """Wait for the report, without polling, for as long as the client likes."""
    try:
        return await runner.handle(make_report, job_id).join(min(max(wait, 0.001), 60))
    except JobNotFound as error:
        raise HTTPException(404, str(error)) from error
    except TimeoutError as error:
        raise HTTPException(504, "not yet", {"retry-after": "5"}) from error
    except JobFailed as error:
        raise HTTPException(410, f"{error.kind}: {error.message}") from error


@app.delete("/reports/{job_id}")
async def cancel(job_id: str) -> CancelOutcome:
    return await runner.handle(make_report, job_id).cancel()
