# /// script
# dependencies = ["arq==0.28.0", "redis[hiredis]==5.3.1"]
#
# [tool.peer]
# stores = ["redis"]
# settings = ["max_jobs {concurrency}", "poll_delay 10 ms", "no results", "hiredis"]
# ///
"""arq: asyncio and Redis, by polling a sorted set."""

from __future__ import annotations

import logging

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

from benches.peers.driver import Driver, Handler, main


class Arq(Driver):
    async def open(self) -> None:
        self._redis = await create_pool(RedisSettings.from_dsn(self.url))

    async def enqueue(self) -> None:
        await self._redis.enqueue_job("noop", self.payload)

    async def close(self) -> None:
        await self._redis.aclose()

    def work(self, handle: Handler) -> None:
        async def noop(context: dict[str, object], payload: str) -> None:
            handle(payload)

        logging.disable(logging.INFO)
        Worker(
            [func(noop, name="noop")],
            redis_settings=RedisSettings.from_dsn(self.url),
            max_jobs=self.concurrency,
            poll_delay=0.01,
            keep_result=0,
            log_results=False,
        ).run()


if __name__ == "__main__":
    main(Arq)
