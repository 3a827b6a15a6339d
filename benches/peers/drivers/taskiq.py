# /// script
# dependencies = [
#     "taskiq==0.13.0", "taskiq-redis==1.2.4", "redis[hiredis]==8.1.0", "uvloop==0.23.0",
# ]
#
# [tool.peer]
# stores = ["redis"]
# settings = [
#     "RedisStreamBroker, which acknowledges",
#     "{concurrency} tasks at a time",
#     "prefetch {concurrency}",
#     "xread_count 100",
#     "hiredis",
#     "uvloop",
# ]
# ///
"""taskiq: asyncio and a Redis stream."""

from __future__ import annotations

import logging

from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from benches.peers.driver import Driver, Handler, main, run


class Taskiq(Driver):
    def _broker(self) -> RedisStreamBroker:
        # From the stream's start: its jobs are older than the worker.
        return RedisStreamBroker(self.url, consumer_id="0")

    async def open(self) -> None:
        self._broker_of_producers = self._broker()

        @self._broker_of_producers.task(task_name="noop")
        async def noop(payload: str) -> None: ...

        self._noop = noop
        await self._broker_of_producers.startup()

    async def enqueue(self) -> None:
        await self._noop.kiq(self.payload)

    async def close(self) -> None:
        await self._broker_of_producers.shutdown()

    def work(self, handle: Handler) -> None:
        broker = self._broker()

        @broker.task(task_name="noop")
        async def noop(payload: str) -> None:
            handle(payload)

        logging.disable(logging.INFO)
        run(
            run_receiver_task(
                broker,
                max_async_tasks=self.concurrency,
                max_prefetch=self.concurrency,
                run_startup=True,
            )
        )


if __name__ == "__main__":
    main(Taskiq)
