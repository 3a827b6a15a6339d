"""Handlers that run in the processes of a pool, and what they do to it."""

from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path

from taquba import JobRecord, LeaseHandle, SettlementEffects
from taquba_jobs import JobContext, job


class ApiError(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")


class Unsendable(Exception):
    """Does not pickle."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("it holds a socket")


class Unreadable(SettlementEffects):
    """A result that pickles, and does not unpickle."""

    def __reduce__(self) -> tuple[object, ...]:
        return pickle.loads, (b"nonsense",)


def work(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
    del lease
    match job.payload:
        case b"killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"exits":
            os._exit(3)
        case b"does not unpickle":
            raise ApiError(500, "upstream")
        case b"does not pickle":
            raise Unsendable("no")
        case b"exit":
            raise SystemExit(3)
        case b"unreadable result":
            return Unreadable()
        case _:
            time.sleep(0.002)
    return None


class Unloadable:
    """A handler that pickles, and cannot be loaded in the other process."""

    def __call__(self, job: JobRecord, lease: LeaseHandle) -> None:
        raise AssertionError

    def __reduce__(self) -> tuple[object, ...]:
        return _load, (os.getpid(),)


def _load(owner: int) -> Unloadable:
    if os.getpid() != owner:
        raise ImportError("no module of that name here")
    return Unloadable()


def end_unless(path: Path) -> None:
    """An initializer that ends its process as long as there is no such file."""
    if not path.exists():
        os._exit(1)


@job(name="worked", max_attempts=2)
def worked(ctx: JobContext[None], what: str) -> str:
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "does not unpickle":
        raise ApiError(500, "upstream")
    return what
