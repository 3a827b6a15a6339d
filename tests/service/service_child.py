"""Takes part in a service and enqueues, until it is stopped or killed.

    python service_child.py STORE LOG TAKEOVER_SECONDS ROLE

Each report is one line of the log, written whole: ``sent ID`` after the call returned, ``handled
ID`` by a handler, ``owner``, ``worker`` or ``producer`` when the role changed. Each settlement
brings its own evidence: an entry ``settled/ID/TOKEN`` in the same commit.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from typing import Literal

from taquba import JobRecord, LeaseHandle, Service, SettlementEffects, WorkerSpec

PRODUCERS = 2


class Child:
    def __init__(self, log: int) -> None:
        self.log = log
        self.enough = asyncio.Event()
        self.stop = asyncio.Event()

    def report(self, *words: object) -> None:
        os.write(self.log, (" ".join(map(str, words)) + "\n").encode())

    async def handle(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        self.report("handled", job.id)
        return SettlementEffects(kv_writes={f"settled/{job.id}/{secrets.token_hex(4)}": b""})

    async def produce(self, service: Service) -> None:
        while not (self.enough.is_set() or self.stop.is_set()):
            receipt = await service.enqueue("q", b"x" * 50)
            self.report("sent", receipt.id)
            await asyncio.sleep(0.03)

    async def watch(self, service: Service) -> None:
        role = None
        while True:
            if service.role != role:
                role = service.role
                self.report(role, time.monotonic())
            await asyncio.sleep(0.002)

    async def run(self, url: str, takeover: float, role: Literal["auto", "producer"]) -> None:
        loop = asyncio.get_running_loop()
        # The first says that it is enough, the second that it is time to go.
        loop.add_signal_handler(signal.SIGUSR1, self.enough.set)
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        workers = [WorkerSpec("q", self.handle, concurrency=20)]
        async with Service(
            url, workers, role=role, takeover_after=takeover, drain_timeout=5
        ) as service:
            watching = asyncio.create_task(self.watch(service))
            async with asyncio.TaskGroup() as group:
                for _ in range(PRODUCERS):
                    group.create_task(self.produce(service))
            self.report("enough")
            await self.stop.wait()
            watching.cancel()


async def main(url: str, log_path: str, takeover: float, role: Literal["auto", "producer"]) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    await Child(log).run(url, takeover, role)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]))  # type: ignore[arg-type]
