"""`SyncProducer`: a producer for plain threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from taquba._model.clock import Clock
from taquba._model.errors import ForkedError, ProducerClosed, TaqubaError
from taquba._model.options import EnqueueRequest, ProducerOptions
from taquba._model.records import JobRecord, QueueStats, WaitOutcome
from taquba._model.validate import Duration
from taquba._producer.producer import Producer, Receipt

T = TypeVar("T")

_CLOSING_SECONDS: Final = 5.0
"""How long to wait for calls of other threads."""


class _Background:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._stopping = False
        self._lock = threading.Lock()
        """Held while work is given to the loop, so that the loop has not begun to stop."""
        self._loop = asyncio.new_event_loop()
        self._ending: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._work, name="taquba-producer", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._stopping:
                work.close()
                raise ProducerClosed
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def stop(self, producer: Producer | None = None) -> None:
        """Close `producer`, wait for the calls of other threads, and end the thread."""
        # A forked child has the loop's descriptors but not its thread.
        if self.pid != os.getpid() or not self._thread.is_alive():
            return
        if threading.current_thread() is self._thread:
            # The garbage collector may call this.
            self._ending = self._loop.create_task(self._end(producer))
            self._ending.add_done_callback(lambda _: self._loop.stop())
            return
        with self._lock:
            self._stopping = True
        asyncio.run_coroutine_threadsafe(self._end(producer), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self, producer: Producer | None) -> None:
        if producer is not None:
            # The calls that wait for unsent requests get the error.
            with contextlib.suppress(TaqubaError, TimeoutError):
                await asyncio.wait_for(producer.close(), _CLOSING_SECONDS)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_CLOSING_SECONDS)

    def _work(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


class SyncProducer:
    """A `Producer` for code without an event loop: Django, notebooks, scripts, serverless.

    May be used from any thread; calls that wait at the same time share an object in the store.
    Make one with `SyncProducer.open`, once per process, after it has forked:

        with SyncProducer.open("s3://bucket/prefix") as producer:
            producer.enqueue("emails", b"hello")

    Every method blocks, for up to half a minute if the store does not answer, and raises the same
    errors as in `Producer`.
    """

    def __init__(self, background: _Background, producer: Producer) -> None:
        """Internal: use `SyncProducer.open`."""
        self._background = background
        self._producer = producer
        self._closed = False
        self._stop = weakref.finalize(self, background.stop, producer)

    @classmethod
    def open(
        cls, url: str | os.PathLike[str], *, fsync: bool = True, clock: Clock | None = None
    ) -> Self:
        """Connect to the inbox of a store; see `Producer.open`."""
        opening = Producer.open(url, fsync=fsync, clock=clock)
        background = _Background()

        async def opened() -> Producer:
            return await opening

        try:
            return cls(background, background.run(opened()))
        except BaseException:
            background.stop()
            raise

    def enqueue(self, queue: str, payload: bytes, **options: Unpack[ProducerOptions]) -> Receipt:
        """Add a job; durable when this returns. See `Producer.enqueue` for the arguments."""
        return self._run(self._producer.enqueue(queue, payload, **options))

    def enqueue_batch(self, requests: Iterable[EnqueueRequest]) -> list[Receipt]:
        """Add jobs to any queues, all or none of them; see `Producer.enqueue_batch`."""
        return self._run(self._producer.enqueue_batch(requests))

    def get_job(self, job_id: str) -> JobRecord | None:
        """Return a job in any state, or None; see `Producer.get_job`."""
        return self._run(self._producer.get_job(job_id))

    def stats(self, name: str) -> QueueStats:
        """Return the counters of a queue; see `Producer.stats`."""
        return self._run(self._producer.stats(name))

    def wait_for_completion(self, job_id: str, timeout: Duration) -> WaitOutcome:
        """Wait until a job is acknowledged or dead-lettered; see `Producer.wait_for_completion`."""
        return self._run(self._producer.wait_for_completion(job_id, timeout))

    def close(self) -> None:
        """Wait for the calls of other threads, and stop. Idempotent."""
        if not self._closed:
            self._run(self._producer.close())
            self._closed = True
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            if self._background.pid != os.getpid():
                raise ForkedError("producer")
            if self._closed:
                raise ProducerClosed
        except BaseException:
            work.close()
            raise
        return self._background.run(work)
