# /// script
# dependencies = ["pgqueuer[asyncpg]==1.6.0", "asyncpg==0.32.0", "uvloop==0.23.0"]
#
# [tool.peer]
# stores = ["postgres"]
# settings = [
#     "batch_size {concurrency}",
#     "LISTEN/NOTIFY",
#     "durable tables",
#     "asyncpg with a pool of {concurrency} connections for producers",
#     "uvloop",
# ]
# ///
"""pgqueuer: asyncio and PostgreSQL."""

from __future__ import annotations

import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job

from benches.peers.driver import PAYLOAD_BYTES, Driver, Handler, main, run


class Pgqueuer(Driver):
    payload = b"x" * PAYLOAD_BYTES
    batch = 1000

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(self.url, min_size=1, max_size=self.concurrency)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))
        await self._queries.install()

    async def enqueue(self) -> None:
        await self._queries.enqueue("noop", self.payload)

    async def enqueue_many(self, jobs: int) -> None:
        await self._queries.enqueue(["noop"] * jobs, [self.payload] * jobs, [0] * jobs)

    async def close(self) -> None:
        await self._pool.close()

    def work(self, handle: Handler) -> None:
        async def work() -> None:
            pool = await asyncpg.create_pool(self.url, min_size=1, max_size=10)
            worker = PgQueuer.from_asyncpg_pool(pool)

            @worker.entrypoint("noop")
            async def noop(job: Job) -> None:
                assert job.payload is not None
                handle(job.payload)

            await worker.run(batch_size=self.concurrency)

        run(work())


if __name__ == "__main__":
    main(Pgqueuer)
