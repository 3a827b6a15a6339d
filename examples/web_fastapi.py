"""A web application of many processes that share a store: all of them enqueue, and all work.

    pip install 'taquba[starlette]' fastapi uvicorn
    STORE=./data uvicorn examples.web_fastapi:app --workers 4

    curl -X POST localhost:8000/mails -d '{"to": "a@b.c", "text": "hello"}' \\
        -H 'content-type: application/json'
    curl localhost:8000/mails/<id>
    curl localhost:8000/role

One process, elected through the store, decides which of them runs each mail. Kill it, and another
takes its place; what the others run goes on. ``GET /mails/<id>`` says which process ran a mail.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Response
from pydantic import BaseModel

from taquba import JobRecord, LeaseHandle, QueueConfig, Service
from taquba.integrations.starlette import service_lifespan, service_of


class Mail(BaseModel):
    to: str
    text: str


async def send_mail(job: JobRecord, lease: LeaseHandle) -> None:
    """Put a mail into a folder; a real handler talks to a mail server here."""
    mail = Mail.model_validate_json(job.payload)
    folder = Path(os.environ.get("OUTBOX", "outbox"))
    # A handler may run twice. This one does the same thing again then.
    await asyncio.to_thread(write, folder / f"{job.id}.txt", f"To: {mail.to}\n\n{mail.text}\n")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


app = FastAPI(
    lifespan=service_lifespan(
        os.environ.get("STORE", "./data"),
        {"mail": send_mail},
        # So that requests can ask what became of a mail.
        queue_configs={"mail": QueueConfig(keep_done_jobs=3600)},
    )
)

TheService = Annotated[Service, Depends(service_of)]


@app.post("/mails", status_code=202)
async def post_mail(
    mail: Mail, service: TheService, idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, str | int]:
    """Who got no answer may post again with the same ``Idempotency-Key``: it will be one mail."""
    receipt = await service.enqueue(
        "mail", mail.model_dump_json().encode(), idempotency_key=idempotency_key
    )
    return {"id": receipt.id, "pid": os.getpid()}


@app.get("/mails/{mail_id}")
async def get_mail(mail_id: str, service: TheService, response: Response) -> dict[str, str]:
    """Where a mail is; ``404`` also for one that the owner has not seen yet."""
    job = await service.get_job(mail_id)
    if job is None:
        response.status_code = 404
        return {"state": "unknown"}
    return {"state": job.status.value, "worker": job.worker or "nobody yet"}


@app.get("/role")
async def get_role(service: TheService) -> dict[str, str | int]:
    """Which process answers, and whether it is the one that decides."""
    return {"pid": os.getpid(), "role": service.role}
