"""Group commit: everything that waits becomes one atomic write, and one flush serves all.

Transactions are decided one after the other on the event loop and written in that order. A
writer task takes all that is waiting and applies it as a single write that carries one absolute
counter row per queue it touches. A flusher task makes what was applied durable, at once when
somebody waits for it; while a flush is under way, the next commits gather.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from taquba._engine.engine import Engine
from taquba._engine.reads import translate
from taquba._model import keys
from taquba._model.codec import encode_counters
from taquba._model.describing import shown
from taquba._model.ending import ends_program
from taquba._model.errors import QueueClosed, StoreError, TaqubaError
from taquba._model.keys import Op
from taquba._model.own_tasks import OwnTask
from taquba._model.records import Counters
from taquba._objects.limits import LAST_SECONDS, OPERATION_TIMEOUT
from taquba._store.cursors import ClaimCursors
from taquba._store.transaction import Transaction
from taquba._store.watchdog import Watchdog

_log: Final = logging.getLogger(__name__)

_MAX_GROUP_OPS: Final = 512
"""Rows after which a group is written even though more wait; a larger transaction goes alone.

While one group is written, the event loop prepares the next: very large groups would take turns.
"""


_LAZY_FLUSH_SECONDS: Final = 0.05
"""When a commit that nobody waits for becomes durable, if no other flush carries it before.

A claim is such a commit: a job that takes its process down must find its attempt counted.
"""


class CommitObserver(Protocol):
    """Observes a committer. Its methods must not raise."""

    def committed(self, group: Sequence[Transaction], ops: Sequence[Op]) -> object:
        """`group` was written, as `ops`."""

    def flushed(self, error: TaqubaError | None) -> object:
        """A flush ended."""

    def answered(self, transaction: Transaction, answer: asyncio.Future[None]) -> object:
        """The caller that submitted `transaction` was told how it ended."""


class _Rows:
    """Rows that were written. Adding them costs nothing until somebody looks for one."""

    def __init__(self) -> None:
        self._ops: list[Sequence[Op]] = []
        self._keys: set[bytes] = set()

    def add(self, ops: Sequence[Op]) -> None:
        self._ops.append(ops)

    def __contains__(self, key: bytes) -> bool:
        while self._ops:
            self._keys.update(changed for changed, _ in self._ops.pop())
        return key in self._keys


class Committer:
    """Writes transactions of one open store, in order, in groups."""

    def __init__(
        self,
        engine: Engine,
        counters: dict[str, Counters],
        *,
        flush_interval: float,
        timeout: float = OPERATION_TIMEOUT,
        on_failure: Callable[[TaqubaError], None],
        on_forsaken: Callable[[], None],
        on_freed: Callable[[list[str]], None],
        cursors: ClaimCursors,
        observer: CommitObserver | None = None,
    ) -> None:
        """Start the two tasks.

        Args:
            engine: The open engine.
            counters: Counters per queue as stored; kept up to date with every commit.
            flush_interval: Minimum time between the starts of two flushes, in seconds.
            timeout: Seconds after which callers get an error if the store hangs.
            on_failure: Called once, when the store can no longer be written.
            on_forsaken: Called once, when somebody has cancelled the tasks. Later transactions are
                still written.
            on_freed: Called with the payload objects of jobs that have left, durably.
            cursors: Say which cursors move with a group.
            observer: Called for every commit, flush and answer.
        """
        self._loop = asyncio.get_running_loop()
        self._engine = engine
        self._counters = counters
        self._flush_interval = flush_interval
        self._timeout = timeout
        self._on_failure = on_failure
        self._on_forsaken = on_forsaken
        self._observer = observer
        self._on_freed = on_freed
        self._cursors = cursors
        self.failure: TaqubaError | None = None
        self.stalled = False
        """True while a write is overdue."""
        self._refusal: TaqubaError | None = None
        """What new transactions are told; before a failure, because of the last one at closing."""
        self._waiting: deque[Transaction] = deque()
        self._in_flight: list[Transaction] = []
        self._unflushed: list[Transaction] = []
        self._flushing: list[Transaction] = []
        self._flush_under_way = False
        self._volatile = [_Rows()]
        """Rows that are applied and not durable: of each flush under way or failed, then the rest.
        """
        self._lazy_flush: asyncio.TimerHandle | None = None
        self._write_watch = Watchdog(timeout, self._write_stalled)
        self._flush_watch = Watchdog(timeout, self._flush_stalled)
        self._write_wanted = asyncio.Event()
        self._flush_wanted = asyncio.Event()
        self._pause_over = asyncio.Event()
        self._hurried = False
        """Whether flushes no longer wait for `flush_interval`."""
        self.forsaken = False
        """True once somebody has cancelled the tasks: new ones run while there is work, no longer.
        """
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer = self._run(self._write_loop, "taquba-writer")
        self._flusher = self._run(self._flush_loop, "taquba-flusher")

    @property
    def busy(self) -> bool:
        """True while a commit or a flush is wanted or under way."""
        return not self._idle.is_set()

    def submit(self, transaction: Transaction, *, durable: bool) -> asyncio.Future[None]:
        """Queue a transaction; the future is done when it is applied, or durable if asked.

        The commit continues if the caller stops waiting.
        """
        waiter = transaction.waiter = self._loop.create_future()
        transaction.durable = durable
        if self._observer is not None:
            waiter.add_done_callback(partial(self._observer.answered, transaction))
        if self._refusal is not None:
            transaction.failed(self._refusal)
            return waiter
        self._waiting.append(transaction)
        self._idle.clear()
        self._write_wanted.set()
        if self.forsaken and self._writer.done():
            self._writer = self._run(self._write_loop, "taquba-writer")
        return waiter

    async def barrier(self) -> None:
        """Wait until everything submitted so far is applied."""
        if self._waiting or self._in_flight:
            await self.submit(Transaction(), durable=False)

    async def until_durable(self, key: bytes) -> None:
        """Wait until what a reader sees under `key` is durable; most often it is already."""
        *covered, rest = self._volatile
        # Of the group in flight a reader may see the rows already.
        if any(key == changed for transaction in self._in_flight for changed, _ in transaction.ops):
            await self.submit(Transaction(), durable=True)
        elif self.failure is not None:
            raise self.failure.again()
        elif key in rest or any(key in rows for rows in covered):
            # The flush under way also carries what a failed one should have.
            await self._flushed(with_next=key in rest or not self._flush_under_way)

    def _flushed(self, *, with_next: bool) -> asyncio.Future[None]:
        """Done when the flush under way is, or the next one, as if a transaction of it waited."""
        transaction = Transaction()
        waiter = transaction.waiter = self._loop.create_future()
        # A flush that nobody waited for was none to be busy with.
        self._idle.clear()
        if with_next:
            self._unflushed.append(transaction)
            self._want_flush()
        else:
            self._flushing.append(transaction)
        return waiter

    async def _drain(self) -> None:
        """Wait, with a bound, until nothing is waiting or under way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                while self.busy:
                    await self._idle.wait()

    async def close(self, last: Callable[[], Transaction] = Transaction) -> None:
        """Write and flush what is waiting, then what `last` makes of that; then stop.

        Nothing lands after the last transaction, so what it says of the store stays true. A caller
        that cancels this leaves what was not written yet.
        """
        try:
            self._hurry()
            await self._drain()
            if not self.busy and self._refusal is None:
                self.submit(last(), durable=False)
                self._refusal = QueueClosed()
                await self._drain()
        finally:
            self._stop()
        await asyncio.gather(self._writer, self._flusher, return_exceptions=True)

    def _stop(self) -> None:
        if self.busy:
            left = len(self._waiting) + len(self._in_flight) + len(self._unflushed)
            left += len(self._flushing)
            _log.error("the store did not take %d commits before it was closed", left)
        self.fail(QueueClosed())
        if self._lazy_flush is not None:
            self._lazy_flush.cancel()
        for watch in (self._write_watch, self._flush_watch):
            watch.close()
        for task in (self._writer, self._flusher):
            task.end()

    # -- the two tasks ----------------------------------------------------------------------

    def _run(self, loop: Callable[[], Coroutine[Any, Any, None]], name: str) -> OwnTask:
        return OwnTask(self._unless_it_ends(loop), name, self._forsake)

    async def _unless_it_ends(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one of the loops; whatever ends it, nobody may wait for it in vain."""
        try:
            await loop()
        except asyncio.CancelledError:
            raise
        except BaseException as cause:
            self.lose(cause)
            if ends_program(cause):
                raise

    def lose(self, cause: BaseException) -> None:
        """An essential task has ended: the store can no longer be written."""
        if isinstance(cause, Exception):
            error = translate(cause)
        else:
            error = StoreError(f"the store failed: {shown(cause)}", permanent=True)
        if not error.permanent:
            # Memory cannot follow a write that may or may not land later.
            error = StoreError(f"{error}; close the queue, open it", permanent=True)
        self.fail(error, cause)

    def _forsake(self) -> None:
        """Somebody has cancelled the tasks, most likely because the event loop is to end.

        They end when they have done what is there. What comes after that, such as jobs that are
        given back, is written by tasks of its own: it has to be before the loop ends.
        """
        first, self.forsaken = not self.forsaken, True
        self._hurry()
        self._write_wanted.set()
        self._flush_wanted.set()
        self._loop.call_later(LAST_SECONDS, self._cut_off, self._writer, self._flusher)
        if first and self.failure is None:
            self._on_forsaken()

    def _cut_off(self, *tasks: OwnTask) -> None:
        """Somebody waits for tasks to end, and the store does not answer."""
        if all(task.done() for task in tasks):
            return
        why = f"the event loop ended, and the store did not answer within {LAST_SECONDS:g} s"
        error = StoreError(f"{why}; whether its last commits land is unknown", permanent=True)
        self.fail(error, error)
        for task in tasks:
            task.end()

    def _hurry(self) -> None:
        self._hurried = True
        self._pause_over.set()

    def _want_flush(self) -> None:
        self._flush_wanted.set()
        if self.forsaken and self._flusher.done():
            self._flusher = self._run(self._flush_loop, "taquba-flusher")

    async def _write_loop(self) -> None:
        while True:
            await self._write_wanted.wait()
            self._write_wanted.clear()
            while self._waiting:
                self._in_flight = self._take_group()
                with self._write_watch:
                    await self._write(self._in_flight)
                self.stalled = False
                self._in_flight = []
            self._settle()
            if self.forsaken:
                return

    def _take_group(self) -> list[Transaction]:
        group = [self._waiting.popleft()]
        size = len(group[0].ops)
        while self._waiting and size + len(self._waiting[0].ops) <= _MAX_GROUP_OPS:
            group.append(self._waiting.popleft())
            size += len(group[-1].ops)
        return group

    async def _write(self, group: list[Transaction]) -> None:
        ops: list[Op] = []
        for transaction in group:
            ops += transaction.ops
        counters = self._counted(group)
        for queue, values in counters.items():
            ops.append((keys.stats(queue), encode_counters(values)))
        cursors = self._cursors.moved_by(group)
        for queue, cursor in cursors.items():
            ops.append((keys.cursor(queue), cursor))
        if ops:
            await self._engine.write(ops)
            self._volatile[-1].add(ops)
            if self._observer is not None:
                self._observer.committed(group, ops)
        self._counters.update(counters)
        self._cursors.written(cursors)
        for transaction in group:
            transaction.applied()
            if transaction.durable or transaction.freed:
                self._unflushed.append(transaction)
            else:
                transaction.resolve()
        if self._unflushed:
            self._want_flush()
        elif ops and self._lazy_flush is None:
            self._lazy_flush = self._loop.call_later(_LAZY_FLUSH_SECONDS, self._want_flush)

    def _counted(self, group: Iterable[Transaction]) -> dict[str, Counters]:
        """Absolute counters, after `group`, of the queues it touches."""
        totals: dict[str, list[int]] = {}
        for transaction in group:
            for change in transaction.changes:
                queue = change.job.queue
                pending, scheduled, claimed, done, dead = change.counts
                total = totals.get(queue)
                if total is None:
                    total = totals[queue] = list(self._counters.get(queue, Counters()))
                total[0] += pending
                total[1] += scheduled
                total[2] += claimed
                total[3] += done
                total[4] += dead
        return {queue: Counters(*total) for queue, total in totals.items()}

    async def _flush_loop(self) -> None:
        loop = self._loop
        not_before = 0.0
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted.clear()
            if self.forsaken and not self._unflushed and self._lazy_flush is None:
                return
            if (early := not_before - loop.time()) > 0:
                await self._pause(early)
            not_before = loop.time() + self._flush_interval
            if self._lazy_flush is not None:
                self._lazy_flush.cancel()
                self._lazy_flush = None
            self._flushing, self._unflushed = self._unflushed, []
            covered = len(self._volatile)
            self._volatile.append(_Rows())
            self._flush_under_way = True
            error = await self._flush()
            self._flush_under_way = False
            if error is None:
                del self._volatile[:covered]
            if self._observer is not None:
                self._observer.flushed(error)
            for transaction in self._flushing:
                transaction.resolve(error)
                if transaction.freed and error is None:
                    self._on_freed(transaction.freed)
            self._flushing = []
            self._settle()
            if self.forsaken and not self._flush_wanted.is_set():
                return

    async def _pause(self, seconds: float) -> None:
        """Let commits gather, unless the end is near."""
        if not self._hurried:
            timer = self._loop.call_later(seconds, self._pause_over.set)
            await self._pause_over.wait()
            timer.cancel()
            self._pause_over.clear()

    async def _flush(self) -> TaqubaError | None:
        try:
            with self._flush_watch:
                await self._engine.flush()
        except Exception as cause:
            error = self._engine.failure() or translate(cause)
            if error.permanent:
                self.fail(error, cause)
            else:
                _log.warning("a flush failed, the outcome of its commits is unknown: %s", error)
            return error
        return None

    def _settle(self) -> None:
        if not (self._waiting or self._in_flight or self._unflushed or self._flushing):
            self._idle.set()

    def fail(self, error: TaqubaError, cause: BaseException | None = None) -> None:
        """The store can no longer be written: all waiting and future callers get the error."""
        if self.failure is not None:
            return
        self.failure = self._refusal = error
        if cause is not None:
            _log.error("the store can no longer be written: %s", error)
        undone = [*self._in_flight, *self._waiting]
        self._in_flight = []
        self._waiting.clear()
        for transaction in reversed(undone):
            transaction.failed(error)
        for transaction in (*self._flushing, *self._unflushed):
            transaction.resolve(error)
        self._flushing, self._unflushed = [], []
        self._idle.set()
        self._on_failure(error)

    def _unanswered(self) -> TaqubaError:
        return StoreError(
            f"the store did not answer within {self._timeout:g} s; "
            "whether the commit will land is unknown"
        )

    # An overdue step continues: its changes may still be applied, and memory follows then.

    def _write_stalled(self) -> None:
        error = self._unanswered()
        self.stalled = True
        for transaction in self._in_flight:
            transaction.resolve(error)
        # What the engine was not given yet is withdrawn: it will not land. The last goes first,
        # for each undoes what it anticipated on top of those before it.
        withdrawn, self._waiting = self._waiting, deque()
        for transaction in reversed(withdrawn):
            transaction.failed(error)

    def _flush_stalled(self) -> None:
        error = self._unanswered()
        for transaction in (*self._flushing, *self._unflushed):
            transaction.resolve(error)
