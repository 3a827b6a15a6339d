"""Group commit on the producer's side: calls that wait at the same time share a batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from taquba._model.batch import encode_batch
from taquba._model.clock import Clock
from taquba._model.errors import ProducerClosed, StoreError, TaqubaError
from taquba._model.ids import IdGenerator
from taquba._producer.lanes import Lane, Results

_PACKED_JOBS: Final = 1000
_PACKED_BYTES: Final = 1024 * 1024
"""The size of a full batch; only a single call with more requests makes a larger one.

The owner stages a batch in one step, and must not block its event loop for long.
"""


class _Call(NamedTuple):
    """The requests of one call, encoded: they are applied together."""

    requests: Sequence[bytes]
    size: int
    landed: asyncio.Future[Results | None]


class Packer:
    """Sends requests in batches, one after the other. Belongs to one event loop."""

    def __init__(self, lane: Lane, ids: IdGenerator, clock: Clock) -> None:
        self._lane = lane
        self._ids = ids
        self._clock = clock
        self._waiting: deque[_Call] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False
        self._forsaken = False
        self._hurry: Callable[[], None] | None = None

    def add(self, requests: Sequence[bytes]) -> asyncio.Future[Results | None]:
        """Send requests, all of them in one batch; the future is done when the batch is durable.

        Its result is what the owner made of each of them, as far as it has decided.
        They are sent even if the caller stops waiting.
        """
        if self._closed:
            raise ProducerClosed
        landed = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(requests, sum(map(len, requests)), landed))
        self._begin()
        return landed

    def _begin(self) -> None:
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="taquba-producer")
            self._sending.add_done_callback(self._go_on)

    def _go_on(self, sent: asyncio.Task[None]) -> None:
        """Send the waiting requests in place of a cancelled task."""
        if self._sending is sent:
            # It was cancelled before it began.
            self._sending = None
        if sent.cancelled():
            self._forsaken = True
            if self._hurry is not None:
                self._hurry()
            if self._waiting:
                self._begin()

    async def close(self, hurry: Callable[[], None]) -> None:
        """Send the waiting requests, and accept no more.

        Args:
            hurry: Called once somebody has cancelled the sending, as when the event loop ends.
        """
        self._closed, self._hurry = True, hurry
        if self._forsaken:
            hurry()
        while self._waiting or self._sending is not None:
            self._begin()
            assert self._sending is not None
            await asyncio.wait([self._sending])

    async def give_up(self) -> None:
        """Fail the calls whose requests could not be sent before the event loop ends."""
        unsent = StoreError("the event loop ended before the jobs were sent: enqueue them again")
        while self._waiting:
            _tell(self._waiting.popleft().landed, unsent)
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    async def _send(self) -> None:
        calls: Sequence[_Call] = ()
        try:
            while self._waiting:
                calls = self._take()
                _share_out(calls, await self._deliver(calls))
                calls = ()
        except BaseException:
            cut_off = StoreError("sending was cancelled: whether the jobs were stored is unknown")
            for call in calls:
                _tell(call.landed, cut_off)
            raise
        finally:
            self._sending = None

    async def _deliver(self, calls: Sequence[_Call]) -> Results | Exception | None:
        requests = [request for call in calls for request in call.requests]
        batch = encode_batch(self._clock.time_ms(), requests)
        try:
            return await self._lane.send(self._ids.next(), batch)
        except Exception as error:
            return error

    def _take(self) -> list[_Call]:
        calls = [self._waiting.popleft()]
        jobs, size = len(calls[0].requests), calls[0].size
        while self._waiting:
            jobs += len(self._waiting[0].requests)
            size += self._waiting[0].size
            if jobs > _PACKED_JOBS or size > _PACKED_BYTES:
                break
            calls.append(self._waiting.popleft())
        return calls


def _share_out(calls: Sequence[_Call], outcome: Results | Exception | None) -> None:
    """Give each call its part of what came of their batch."""
    start = 0
    for call in calls:
        end = start + len(call.requests)
        if outcome is None or isinstance(outcome, Exception):
            _tell(call.landed, outcome)
        else:
            _tell(call.landed, outcome[start:end])
        start = end


def _tell(landed: asyncio.Future[Results | None], outcome: Results | Exception | None) -> None:
    if landed.done():
        # Its caller was cancelled.
        return
    if isinstance(outcome, Exception):
        landed.set_exception(outcome.again() if isinstance(outcome, TaqubaError) else outcome)
    else:
        landed.set_result(outcome)
