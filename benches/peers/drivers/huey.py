# /// script
# dependencies = ["huey==3.5.4"]
#
# [tool.peer]
# stores = ["sqlite"]
# settings = [
#     "{concurrency} worker threads, polling every 10 ms, and {concurrency} producer threads",
#     "no results",
#     "fsync=True",
#     "a job leaves the database when it is claimed",
# ]
# ///
"""huey: threads and a SQLite file."""

from __future__ import annotations

import logging

from huey import SqliteHuey

from benches.peers.driver import Handler, ThreadedDriver, main


class Huey(ThreadedDriver):
    async def open(self) -> None:
        self._huey = self._connect()

        @self._huey.task()
        def noop(payload: str) -> None: ...

        self._noop = noop

    def _connect(self) -> SqliteHuey:
        return SqliteHuey(
            "bench",
            filename=self.url.removeprefix("sqlite:///"),
            results=False,
            fsync=True,
            # Many writers take turns; nobody gives up within the time limit of the bench.
            timeout=60,
        )

    def enqueue_blocking(self) -> None:
        self._noop(self.payload)

    async def close(self) -> None:
        self._huey.storage.close()

    def durability(self) -> str:
        storage = self._huey.storage
        ((mode,),) = storage.sql("pragma journal_mode", results=True)
        ((synchronous,),) = storage.sql("pragma synchronous", results=True)
        return f"journal_mode={mode}, synchronous={synchronous}"

    def work(self, handle: Handler) -> None:
        huey = self._connect()

        @huey.task()
        def noop(payload: str) -> None:
            handle(payload)

        logging.disable(logging.INFO)
        huey.create_consumer(
            workers=self.concurrency,
            initial_delay=0.01,
            max_delay=0.01,
            periodic=False,
        ).run()


if __name__ == "__main__":
    main(Huey)
