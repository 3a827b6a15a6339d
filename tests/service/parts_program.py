"""A program as users write it: a service, and what is made for it; run by ``taquba run``."""

from __future__ import annotations

import os

from taquba import Service
from taquba_jobs import JobContext, JobRunner, job


@job(name="double")
async def double(ctx: JobContext[None], number: int) -> int:
    return 2 * number


service = Service(os.environ["STORE"], fsync=False)
jobs = JobRunner(service, jobs=[double])
