# /// script
# dependencies = ["celery[redis]==5.7.0", "redis[hiredis]==8.1.0"]
#
# [tool.peer]
# stores = ["redis"]
# settings = [
#     "{concurrency} worker threads and {concurrency} producer threads",
#     "acknowledged late",
#     "prefetch 4 per thread",
#     "results ignored",
#     "broker_pool_limit {concurrency}",
#     "hiredis",
# ]
# ///
"""Celery: threads and Redis."""

from __future__ import annotations

from celery import Celery

from benches.peers.driver import Handler, ThreadedDriver, main


class CeleryDriver(ThreadedDriver):
    def _app(self) -> Celery:
        app = Celery("bench", broker=self.url)
        app.conf.update(
            broker_pool_limit=self.concurrency,
            # Without it a job is acknowledged before it runs, and lost with its worker.
            task_acks_late=True,
            task_ignore_result=True,
            worker_prefetch_multiplier=4,
            worker_send_task_events=False,
        )
        return app

    async def open(self) -> None:
        self._producer = self._app()

    def enqueue_blocking(self) -> None:
        self._producer.send_task("noop", (self.payload,), ignore_result=True)

    async def close(self) -> None:
        self._producer.close()

    def work(self, handle: Handler) -> None:
        app = self._app()

        @app.task(name="noop")
        def noop(payload: str) -> None:
            handle(payload)

        app.worker_main(
            [
                "worker",
                "--pool=threads",
                f"--concurrency={self.concurrency}",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
                "--loglevel=ERROR",
            ]
        )


if __name__ == "__main__":
    main(CeleryDriver)
