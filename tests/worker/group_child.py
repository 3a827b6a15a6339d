"""Works with a process pool until a signal to its process group, and drains.

    python group_child.py URL FORM

FORM is ``factory`` or ``instance``. Prints a line when all its functions run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from taquba import JobRecord, LeaseHandle, Queue, QueueConfig, WorkerSpec, run_workers

RUNNING = 2


def work(job: JobRecord, lease: LeaseHandle) -> None:
    del job, lease
    sys.stdout.write("running\n")
    sys.stdout.flush()
    time.sleep(0.7)


def make() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(RUNNING, mp_context=get_context("forkserver"))


async def main(url: str, form: str) -> None:
    async with Queue.open(url, default_config=QueueConfig(keep_done_jobs=3600)) as queue:
        executor = make() if form == "instance" else make
        await run_workers(queue, WorkerSpec("q", work, concurrency=RUNNING, executor=executor))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
