# /// script
# dependencies = ["procrastinate==3.10.0", "psycopg[binary,pool]==3.3.9"]
#
# [tool.peer]
# stores = ["postgres"]
# settings = [
#     "concurrency {concurrency}",
#     "LISTEN/NOTIFY",
#     "finished jobs deleted",
#     "psycopg's binary with a pool of {concurrency} connections",
# ]
# ///
"""procrastinate: asyncio and PostgreSQL."""

from __future__ import annotations

import logging

from procrastinate import App, PsycopgConnector

from benches.peers.driver import Driver, Handler, main


class Procrastinate(Driver):
    batch = 1000

    def _app(self) -> App:
        return App(
            connector=PsycopgConnector(conninfo=self.url, min_size=1, max_size=self.concurrency)
        )

    async def open(self) -> None:
        self._producer = self._app()
        await self._producer.open_async()
        await self._producer.schema_manager.apply_schema_async()
        self._noop = self._producer.configure_task("noop")

    async def enqueue(self) -> None:
        await self._noop.defer_async(payload=self.payload)

    async def enqueue_many(self, jobs: int) -> None:
        await self._noop.batch_defer_async(*[{"payload": self.payload}] * jobs)

    async def close(self) -> None:
        await self._producer.close_async()

    def work(self, handle: Handler) -> None:
        app = self._app()

        @app.task(name="noop")
        async def noop(payload: str) -> None:
            handle(payload)

        logging.disable(logging.INFO)
        app.run_worker(concurrency=self.concurrency, delete_jobs="successful")


if __name__ == "__main__":
    main(Procrastinate)
