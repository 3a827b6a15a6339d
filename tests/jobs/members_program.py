"""A program whose processes share typed jobs; run by ``taquba run``, killed by its test."""

from __future__ import annotations

import asyncio
import os

from taquba import Service
from taquba_jobs import JobContext, JobRunner, job

LOG = os.environ["LOG"]


def note(line: str) -> None:
    """Add a line to the log, whole."""
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, f"{line}\n".encode())
    finally:
        os.close(log)


@job(name="square", idempotency_key=lambda number: str(number), max_attempts=5)
async def square(ctx: JobContext[str], number: int) -> int:
    note(f"began {number} {os.getpid()}")
    ctx.progress(0, 1)
    await asyncio.sleep(0.1)
    note(f"ended {number} {os.getpid()}")
    return number * number


@job(name="sum_of_squares", max_attempts=5)
async def sum_of_squares(ctx: JobContext[str], most: int) -> int:
    handles = [await ctx.submit(square, number) for number in range(most)]
    return sum([await handle for handle in handles])


service = Service(os.environ["STORE"])
jobs = JobRunner(service, jobs=[square, sum_of_squares], state="deps", concurrency=8)
