# /// script
# dependencies = ["dbos==3.4.0", "psycopg[binary]==3.3.9"]
#
# [tool.peer]
# stores = ["sqlite", "postgres"]
# settings = [
#     "a workflow per job",
#     "worker_concurrency {concurrency}",
#     "queue polled every 10 ms",
#     "pools of {concurrency} connections",
#     "a SQLite file has a write-ahead log",
#     "{concurrency} producer threads",
# ]
# ///
"""DBOS: durable workflows from a queue, in PostgreSQL or in a SQLite file."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing

from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions
from sqlalchemy import text

from benches.peers.driver import Handler, ThreadedDriver, main

SQLITE = "sqlite:///"
OPTIONS: EnqueueOptions = {"queue_name": "bench", "workflow_name": "noop"}


class Dbos(ThreadedDriver):
    def _config(self) -> DBOSConfig:
        return DBOSConfig(
            name="bench",
            system_database_url=self.url,
            sys_db_pool_size=self.concurrency,
            max_executor_threads=self.concurrency,
            log_level="ERROR",
        )

    def _launch(self) -> None:
        DBOS.launch()
        DBOS.register_queue("bench", worker_concurrency=self.concurrency, polling_interval_sec=0.01)

    async def open(self) -> None:
        if self.url.startswith(SQLITE):
            # Kept by the file: faster than SQLite's rollback journal, and as durable.
            with closing(sqlite3.connect(self.url.removeprefix(SQLITE))) as database:
                database.execute("pragma journal_mode=wal")
        # It refuses to be launched on the thread of an event loop.
        await asyncio.to_thread(self._make_tables)
        self._client = DBOSClient(
            system_database_url=self.url, system_database_pool_size=self.concurrency
        )

    def _make_tables(self) -> None:
        # A client does not make them.
        DBOS(config=self._config())
        DBOS.listen_queues([])
        self._launch()
        DBOS.destroy()

    def enqueue_blocking(self) -> None:
        self._client.enqueue(OPTIONS, self.payload)

    async def close(self) -> None:
        self._client.destroy()

    def durability(self) -> str | None:
        if not self.url.startswith(SQLITE):
            return None
        with self._client._sys_db.engine.connect() as connection:
            mode = connection.execute(text("pragma journal_mode")).scalar()
            synchronous = connection.execute(text("pragma synchronous")).scalar()
        return f"journal_mode={mode}, synchronous={synchronous}"

    def work(self, handle: Handler) -> None:
        DBOS(config=self._config())

        @DBOS.workflow(name="noop")
        def noop(payload: str) -> None:
            handle(payload)

        self._launch()
        signal.pause()


if __name__ == "__main__":
    main(Dbos)
