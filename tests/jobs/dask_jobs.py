"""Jobs that run on the workers of a Dask cluster, which import them from here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from taquba_jobs import JobContext, job


@job(name="dask.where")
def where(ctx: JobContext, number: int) -> tuple[int, int]:
    return number * number, os.getpid()


@job(name="dask.die", max_attempts=3)
def die_once(ctx: JobContext, flag: str) -> int:
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.attempt


@job(name="dask.fail", max_attempts=1)
def fail(ctx: JobContext) -> None:
    raise ArithmeticError("on the worker")
