"""Takes part in a service and runs the jobs of the queue "q", until it is stopped or killed.

    python working_child.py STORE LOG ROLE CONCURRENCY LEASE

A job's payload says what its handler does: ``sleep SECONDS``, ``block SECONDS`` (the event loop),
``die MS`` (after so many milliseconds the process kills itself), ``until PATH`` (a file exists).
Each report is one line of the log, written whole: ``started ID ATTEMPT``, ``ended ID ATTEMPT``, and
``owner`` or ``worker`` when the role changed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from taquba import JobRecord, LeaseHandle, QueueConfig, Service, WorkerSpec


class Child:
    def __init__(self, log: int) -> None:
        self.log = log

    def report(self, *words: object) -> None:
        os.write(self.log, (" ".join(map(str, words)) + "\n").encode())

    async def handle(self, job: JobRecord, lease: LeaseHandle) -> None:
        self.report("started", job.id, job.attempts)
        what, _, how = job.payload.decode().partition(" ")
        if what == "sleep":
            await asyncio.sleep(float(how))
        elif what == "block":
            time.sleep(float(how))  # noqa: ASYNC251 - on purpose
        elif what == "die":
            await asyncio.sleep(int(how) / 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "until":
            while not Path(how).exists():  # noqa: ASYNC110, ASYNC240 - nothing tells
                await asyncio.sleep(0.01)
        self.report("ended", job.id, job.attempts)

    async def watch(self, service: Service) -> None:
        role = None
        while True:
            if service.role != role:
                role = service.role
                self.report(role)
            await asyncio.sleep(0.005)


async def main(url: str, log_path: str, role: str, concurrency: int, lease: float) -> None:
    child = Child(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker = WorkerSpec("q", child.handle, concurrency=concurrency, lease=lease)
    keeps = QueueConfig(retry_backoff_base=0, retry_jitter=0, keep_done_jobs=600)
    async with Service(
        url,
        [worker],
        role=role,  # type: ignore[arg-type]
        fsync=False,
        default_config=keeps,
    ) as service:
        watching = asyncio.create_task(child.watch(service))
        await stop.wait()
        watching.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5])))  # type: ignore[misc,call-arg]
