"""Programs of all kinds whose only job never ends, whatever it is sent.

python stuck_child.py PROGRAM WHERE STORE
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

from taquba import JobRecord, LeaseHandle, Queue, WorkerSpec, run_service, run_workers
from taquba._cli.app import run as run_command
from taquba._worker import worker
from taquba_bulk import BulkContext

# So that the test need not wait for as long as people have to.
worker._ABANDONED_AFTER_SECONDS = 0.2  # type: ignore[misc]


def tell_and_stay() -> None:
    print("started", flush=True)
    while True:
        time.sleep(1)


async def stay() -> None:
    print("started", flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


async def on_the_loop(job: JobRecord, lease: LeaseHandle) -> None:
    await stay()


def in_a_thread(job: JobRecord, lease: LeaseHandle) -> None:
    tell_and_stay()


async def item(ctx: BulkContext[int]) -> None:
    await stay()


async def work(store: str, handler: Any, executor: Any) -> None:
    async with Queue.open(store, fsync=False) as queue:
        await run_workers(queue, WorkerSpec("q", handler, executor=executor))


def run_django(store: str) -> None:
    backend = "taquba.integrations.django.TaqubaBackend"
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=["taquba.integrations.django"],
        TASKS={"default": {"BACKEND": backend, "OPTIONS": {"url": store}, "QUEUES": ["q"]}},
    )
    django.setup()
    # Only what is imported already is run.
    importlib.import_module("tests.worker.stuck_tasks")
    call_command("taquba_worker")


def main(program: str, where: str, store: str) -> None:
    handler = on_the_loop if where == "loop" else in_a_thread
    executor = (lambda: ThreadPoolExecutor(1)) if where == "executor" else None
    if program == "run_workers":
        asyncio.run(work(store, handler, executor))
    elif program == "run_service":
        spec = WorkerSpec("q", handler, executor=executor)
        asyncio.run(run_service(store, [spec], fsync=False))
    elif program == "django":
        run_django(store)
    elif program == "bulk":
        inputs = Path(store).with_name("in")
        inputs.write_text("1\n")
        arguments = ["bulk", "run", f"{__name__}:item", str(inputs), f"{inputs}.out", "-s", store]
        sys.exit(run_command([*arguments, "-q", "q", "--take-over"]))
    else:
        name = f"{__name__}:{handler.__name__}"
        sys.exit(run_command(["worker", "-s", store, name, "-q", "q", "--take-over"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
