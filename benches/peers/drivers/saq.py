# /// script
# dependencies = [
#     "saq==0.26.4", "redis[hiredis]==7.4.1",
#     # saq imports it without saying so.
#     "typing-extensions==4.16.0",
# ]
#
# [tool.peer]
# stores = ["redis"]
# settings = [
#     "concurrency {concurrency}",
#     "max_concurrent_ops {concurrency}",
#     "no results",
#     "hiredis",
# ]
# ///
"""SAQ: asyncio and Redis, by blocking list operations."""

from __future__ import annotations

import asyncio
import logging

from saq import Queue, Worker
from saq.types import Context

from benches.peers.driver import Driver, Handler, main


class Saq(Driver):
    def _connect(self) -> Queue:
        return Queue.from_url(self.url, max_concurrent_ops=self.concurrency)

    async def open(self) -> None:
        self._queue = self._connect()
        await self._queue.connect()

    async def enqueue(self) -> None:
        await self._queue.enqueue("noop", payload=self.payload, ttl=-1)

    async def close(self) -> None:
        await self._queue.disconnect()

    def work(self, handle: Handler) -> None:
        async def noop(context: Context, *, payload: str) -> None:
            handle(payload)

        async def run() -> None:
            queue = self._connect()
            await queue.connect()
            await Worker(queue, [("noop", noop)], concurrency=self.concurrency).start()

        logging.disable(logging.INFO)
        asyncio.run(run())


if __name__ == "__main__":
    main(Saq)
