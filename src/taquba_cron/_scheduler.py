"""`CronScheduler`: sleeps until the next firing, and enqueues its job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self

from taquba import (
    Duration,
    EnqueueRequest,
    InvalidArgument,
    Store,
    StoreError,
)
from taquba.extending import HeldLocks, Shutdown, locks_of, only_it_was_cancelled, was_cancelled
from taquba.extending.checks import check_shutdown, instance
from taquba.extending.times import to_ms
from taquba_cron._errors import (
    AlreadyRunning,
    DuplicateSchedule,
    UnknownSchedule,
    UnreadableSchedule,
)
from taquba_cron._expression import CronExpression
from taquba_cron._record import (
    KEY_PREFIX,
    CatchUp,
    Record,
    decode,
    due,
    encode,
    next_firing,
    with_fired,
)
from taquba_cron._schedule import Schedule, ScheduleInfo, info, unreadable_info

_log: Final = logging.getLogger(__name__)

_JOBS_PER_COMMIT: Final = 100
_RETRY: Final = timedelta(seconds=1)
_UNREADABLE: Final = timedelta(minutes=1)
"""How often a schedule is tried whose record cannot be read, or whose job is refused."""

_AT_ONCE: Final = datetime.min.replace(tzinfo=UTC)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)

_RECHECK_MS: Final = 1000
"""How often the sleeping scheduler reads the wall clock, in case it was set."""


class _Entry:
    """A registered schedule, and the state of the scheduler for it."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.start_over()

    def start_over(self) -> None:
        """A scheduler starts to run: nobody was watching before."""
        self.look_at = _AT_ONCE
        self.in_doubt = True
        """Whether a commit may be under way that a read does not show yet."""
        self.watched_since_ms: int | None = None
        """Monotonic time of the first look."""
        self.failing_since: datetime | None = None
        """Wall time of the first of the consecutive looks that failed."""


class CronScheduler:
    """Enqueues a job for every firing of its schedules; at most one for each.

    A firing is recorded in the commit that enqueues its job, so neither a crash, nor a restart,
    nor another scheduler on the same queue fires it again.

        scheduler = CronScheduler(queue)
        scheduler.schedule("report", "30 9 * * MON-FRI", "reports", b"daily", timezone="Asia/Tokyo")
        async with scheduler:
            ...

    Schedules can be added, removed, paused and resumed before it runs and while it runs. A failure
    that ends the scheduler inside ``async with`` is logged, and raised at the end of the block.

    Args:
        store: An open handle on the store; the scheduler uses its clock.
    """

    def __init__(self, store: Store) -> None:
        instance(store, Store, "store")
        self._store = store
        self._clock = store.clock
        self._entries: dict[str, _Entry] = {}
        self._running = False
        self._wake = asyncio.Event()
        self._asleep = True
        """False while there is work to do: a virtual clock waits for it."""
        self._looked_at = _AT_ONCE
        self._ready = asyncio.Event()
        """Set once every schedule was looked at for the first time."""
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._clock.attach(lambda: not self._asleep)

    # -- register -----------------------------------------------------------------------------

    def schedule(
        self,
        name: str,
        expression: str,
        queue_name: str,
        payload: bytes,
        *,
        timezone: str = "UTC",
        headers: Mapping[str, str] | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        jitter: Duration = 0,
        catch_up: CatchUp = "none",
    ) -> None:
        """Enqueue a job whenever a cron expression fires; see `CronExpression` for when that is.

        Args:
            name: The name under which its firings are recorded, in this and later runs of the
                program.
            expression: Five cron fields.
            queue_name: Where the jobs go.
            payload: The payload of the jobs.
            timezone: IANA zone in which the expression is read.
            headers: Small string pairs that travel with each job.
            priority: Default: the queue's.
            max_attempts: Default: the queue's.
            jitter: Longest delay, seconds, up to a day; each job starts at a random moment within
                it. The job is still committed at its nominal time.
            catch_up: What to do, at the next start, about firings that were due while no scheduler
                ran: ``"none"`` drops them, ``"latest"`` fires the latest, ``"all"`` fires all, up
                to the latest 1,000.

        Raises:
            InvalidCronExpression: The expression cannot be read, or never fires.
            UnknownTimezone: `timezone` is not an IANA zone.
            DuplicateSchedule: The name is taken.
            InvalidArgument: Another value cannot be used.
        """
        schedule = Schedule(
            name,
            CronExpression(expression, timezone),
            EnqueueRequest(
                queue_name, payload, headers=headers, priority=priority, max_attempts=max_attempts
            ),
            jitter=jitter,
            catch_up=catch_up,
        )
        if name in self._entries:
            raise DuplicateSchedule(name)
        self._entries[name] = _Entry(schedule)
        self._ring()

    async def remove(self, name: str) -> None:
        """Remove a schedule and the record of its firings, durably. Jobs that it enqueued stay.

        Raises:
            UnknownSchedule: It is neither registered here nor stored.
        """
        with await self._turn(name):
            # Not decoded: a record that cannot be read can be removed as well.
            if name not in self._entries and await self._store.kv_get(KEY_PREFIX + name) is None:
                raise UnknownSchedule(name)
            self._entries.pop(name, None)
            await self._store.kv_delete(KEY_PREFIX + name)

    async def pause(self, name: str) -> None:
        """Drop the firings of a schedule until it is resumed, even after a restart; durable.

        Raises:
            UnknownSchedule: It is neither registered here nor stored.
            UnreadableSchedule: The stored record cannot be read.
        """
        await self._change(name, lambda record: replace(record, paused=True))

    async def resume(self, name: str) -> None:
        """Resume a paused schedule with its next firing; durable.

        Firings that were dropped meanwhile are not made up for, whatever its `catch_up`.

        Raises:
            UnknownSchedule: It is neither registered here nor stored.
        """

        def resumed(record: Record) -> Record:
            if not record.paused:
                return record
            return replace(record, paused=False, since=self._clock.now())

        await self._change(name, resumed)

    async def schedules(self) -> list[ScheduleInfo]:
        """Return the schedules registered here, by name; `list_schedules` returns all of them."""
        now = self._clock.now()
        found: list[ScheduleInfo] = []
        for name, entry in sorted(self._entries.items()):
            value = await self._store.kv_get(entry.schedule.key)
            try:
                stored = self._decoded(entry, value)
            except UnreadableSchedule as problem:
                found.append(unreadable_info(name, value or b"", problem))
            else:
                found.append(info(name, entry.schedule.registered(stored, now), now))
        return found

    # -- run ----------------------------------------------------------------------------------

    async def run(self, shutdown: Shutdown | None = None) -> None:
        """Enqueue the jobs of due firings, and sleep in between, until `shutdown` is set.

        If the store does not answer, the scheduler tries again every second.

        Raises:
            AlreadyRunning: This scheduler is already running.
            TaqubaError: The queue was closed or fenced.
        """
        check_shutdown(shutdown)
        if self._running:
            raise AlreadyRunning
        self._running = True
        stopping = None if shutdown is None else asyncio.ensure_future(shutdown.wait())
        if stopping is not None:
            stopping.add_done_callback(lambda _: self._ring())
        for entry in self._entries.values():
            entry.start_over()
        self._asleep = False
        try:
            while stopping is None or not stopping.done():
                self._wake.clear()
                await self._look_at_what_is_due()
                self._ready.set()
                await self._sleep()
            if stopping.cancelled():
                raise was_cancelled(stopping)
        finally:
            self._running = False
            self._asleep = True
            self._ready.set()
            if stopping is not None:
                stopping.cancel()

    async def __aenter__(self) -> Self:
        if self._running or self._task is not None:
            raise AlreadyRunning
        self._stop.clear()
        self._ready.clear()
        self._task = asyncio.create_task(self.run(self._stop), name="taquba-cron")
        self._task.add_done_callback(_log_failure)
        try:
            await self._ready.wait()
            if self._task.done():
                self._task.result()
        except BaseException:
            self._task.cancel()
            self._task = None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        task, self._task = self._task, None
        if task is None:
            return
        try:
            await task
        except asyncio.CancelledError:
            if not only_it_was_cancelled(task):
                raise
            raise was_cancelled(task) from error

    def _ring(self) -> None:
        """Something changed: check which firings are due."""
        if self._running:
            self._asleep = False
        self._wake.set()

    async def _sleep(self) -> None:
        next_look = min((entry.look_at for entry in self._entries.values()), default=_NEVER)
        if self._wake.is_set() or next_look <= _AT_ONCE:
            return
        timer = None
        if next_look < _NEVER:
            timer = self._clock.call_at(to_ms(next_look), _RECHECK_MS, self._ring)
        self._asleep = True
        try:
            await self._wake.wait()
        finally:
            self._asleep = False
            if timer is not None:
                timer.cancel()

    async def _look_at_what_is_due(self) -> None:
        now = self._clock.now()
        if now < self._looked_at:
            # The wall clock was set back, to times for which nothing was planned.
            for entry in self._entries.values():
                entry.look_at = _AT_ONCE
        self._looked_at = now
        looks = [self._look(entry) for entry in self._entries.values() if entry.look_at <= now]
        for failure in await asyncio.gather(*looks, return_exceptions=True):
            if failure is not None:
                raise failure

    async def _look(self, entry: _Entry) -> None:
        """Enqueue the due firings of one schedule, and plan the next look."""
        schedule = entry.schedule
        started = self._clock.now()
        if entry.watched_since_ms is None:
            entry.watched_since_ms = self._clock.monotonic_ms()
        try:
            with await self._turn(schedule.name):
                if self._entries.get(schedule.name) is not entry:
                    return  # removed
                record = await self._record(entry)
                now = self._clock.now()
                watched_ms = self._clock.monotonic_ms() - entry.watched_since_ms
                firings = due(
                    record,
                    now,
                    schedule.catch_up,
                    watched_for=timedelta(milliseconds=watched_ms),
                    failing_since=entry.failing_since,
                )
                record = await self._fire(entry, record, firings)
        except StoreError as error:
            if error.permanent:
                raise
            _log.warning("schedule %r will be tried again: %s", schedule.name, error)
            entry.failing_since = entry.failing_since or started
            entry.look_at = self._clock.now() + _RETRY
        except (UnreadableSchedule, InvalidArgument) as error:
            # This concerns only this schedule: its record is damaged, or its job is refused.
            _log.error("schedule %r does not fire: %s", schedule.name, error)
            entry.failing_since = entry.failing_since or started
            entry.look_at = self._clock.now() + _UNREADABLE
        else:
            entry.failing_since = None
            entry.look_at = next_firing(record, now)

    async def _record(self, entry: _Entry) -> Record:
        """The stored record of a schedule; written first if it is new, changed, or in doubt."""
        schedule = entry.schedule
        while True:
            value = await self._store.kv_get(schedule.key)
            stored = self._decoded(entry, value)
            now = self._clock.now()
            if stored is not None and stored.since <= now and not entry.in_doubt:
                return schedule.continued(stored)
            record = schedule.registered(stored, now)
            # Waits for a commit under way that touches the record, and sees its result.
            if await self._store.kv_compare_put(schedule.key, value, encode(record)):
                entry.in_doubt = False
                return record

    async def _fire(self, entry: _Entry, record: Record, firings: list[datetime]) -> Record:
        """Enqueue the jobs of `firings`; returns the record that was committed with them."""
        schedule = entry.schedule
        for start in range(0, len(firings), _JOBS_PER_COMMIT):
            some = firings[start : start + _JOBS_PER_COMMIT]
            record = with_fired(record, some)
            entry.in_doubt = True
            results = await self._store.enqueue_batch(schedule.requests(some, record))
            if not any(result.new for result in results):
                # Another caller enqueued under these dedup keys, which dropped the record.
                await self._store.kv_put(schedule.key, encode(record))
            entry.in_doubt = False
        return record

    async def _turn(self, name: str) -> HeldLocks:
        """Lock a record for a read and a write, against every scheduler of this process."""
        return await locks_of(self._store).acquire([("taquba_cron", name)])

    @staticmethod
    def _decoded(entry: _Entry, value: bytes | None) -> Record | None:
        """The stored record of a schedule that is registered here, which knows its expression."""
        schedule = entry.schedule
        return None if value is None else decode(schedule.key, value, schedule.expression)

    async def _change(self, name: str, change: Callable[[Record], Record]) -> None:
        key = KEY_PREFIX + name
        with await self._turn(name):
            entry = self._entries.get(name)
            changed = False
            while not changed:
                value = await self._store.kv_get(key)
                if entry is not None:
                    stored: Record | None = self._decoded(entry, value)
                    stored = entry.schedule.registered(stored, self._clock.now())
                else:
                    stored = None if value is None else decode(key, value)
                if stored is None:
                    raise UnknownSchedule(name)
                changed = await self._store.kv_compare_put(key, value, encode(change(stored)))
        if entry is not None:
            entry.look_at = _AT_ONCE
            self._ring()


def _log_failure(task: asyncio.Task[None]) -> None:
    error = was_cancelled(task) if task.cancelled() else task.exception()
    if error is not None:
        _log.error("the cron scheduler stopped: %s", error)
