"""`CronScheduler`: sleeps until the next firing, and enqueues its job."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self

from taquba import (
    Duration,
    EnqueueRequest,
    EntryChanged,
    InvalidArgument,
    Store,
    TaqubaError,
)
from taquba.extending import Shutdown, made_for, member_id, only_it_was_cancelled, was_cancelled
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

_CONNECTING: Final = timedelta(seconds=5)
"""How long a process may be missing among the members, after a change of the owner."""

_LAST_LOOK_SECONDS: Final = 5.0
"""How long a scheduler that stops waits for the answers of a store."""

_AT_ONCE: Final = datetime.min.replace(tzinfo=UTC)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)

_RECHECK_MS: Final = 1000
"""How often the sleeping scheduler reads the wall clock, in case it was set."""


_numbers: Final = itertools.count(1)
_running: Final[set[str]] = set()
"""The names of the schedulers that run in this process."""


class _JobRefused(Exception):
    """The job of a schedule cannot be enqueued."""


class _Entry:
    """A registered schedule, and the state of the scheduler for it."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.start_over()

    def start_over(self) -> None:
        """A scheduler starts to run: nobody was watching before."""
        self.look_at = _AT_ONCE
        self.looked_at: datetime | None = None
        """Wall time of the last look that succeeded."""
        self.row: bytes | None = None
        """The record as it was then, if this schedule's definition was in force."""
        self.watched_since_ms: int | None = None
        """Monotonic time of the first look."""
        self.failing_since: datetime | None = None
        """Wall time of the first of the consecutive looks that failed."""
        self.rests = False
        """Whether a newer definition was in force at the last look."""
        self.newer_missing = False
        """Whether no process was found then that has the newer definition."""


class CronScheduler:
    """Enqueues a job for every firing of its schedules; at most one for each.

    A firing is recorded in the commit that enqueues its job, so neither a crash, nor a restart,
    nor a scheduler of another process fires it again. Run one in every process of a service:
    whichever is first fires, and the others notice.

        scheduler = CronScheduler(service)
        scheduler.schedule("report", "30 9 * * MON-FRI", "reports", b"daily", timezone="Asia/Tokyo")
        async with service, scheduler:
            ...

    Where processes define a schedule differently, as during a deploy, the newest definition fires:
    the one that the store saw last. An older one rests. It returns when no process is left that has
    the newer one.

    Schedules can be added, removed, paused and resumed before it runs and while it runs. A failure
    that ends the scheduler inside ``async with`` is logged, and raised at the end of the block.

    Args:
        store: A `taquba.Service`, which may be entered later, or another handle on the store. The
            scheduler uses its clock.
    """

    def __init__(self, store: Store) -> None:
        instance(store, Store, "store")
        self._store = store
        self._clock = store.clock
        self._entries: dict[str, _Entry] = {}
        self._running = False
        self._name = ""
        """Names this run among all schedulers of the store: its process, and a number there."""
        self._wake = asyncio.Event()
        self._asleep = True
        """False while there is work to do: a virtual clock waits for it."""
        self._looked_at = _AT_ONCE
        self._looks: list[asyncio.Task[None]] = []
        self._cut_off = False
        """Whether the looks under way were cancelled, so that the scheduler can stop."""
        self._last_moment: asyncio.TimerHandle | None = None
        self._ready = asyncio.Event()
        """Set once every schedule was looked at for the first time."""
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._clock.attach(lambda: not self._asleep)
        made_for(store, self)

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
        # Not decoded: a record that cannot be read can be removed as well.
        if (
            self._entries.pop(name, None) is None
            and await self._store.kv_get(KEY_PREFIX + name) is None
        ):
            raise UnknownSchedule(name)
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
        """Return the schedules registered here, by name; `list_schedules` returns all of them.

        One of which another process has a newer definition is returned as that defines it.
        """
        now = self._clock.now()
        found: list[ScheduleInfo] = []
        for name, entry in sorted(self._entries.items()):
            value = await self._store.kv_get(entry.schedule.key)
            try:
                stored = self._decoded(entry, value)
            except UnreadableSchedule as problem:
                found.append(unreadable_info(name, value or b"", problem))
                continue
            if stored is None or not entry.schedule.is_superseded(stored):
                stored = entry.schedule.registered(stored, now)
            found.append(info(name, stored, now))
        return found

    # -- run ----------------------------------------------------------------------------------

    async def run(self, shutdown: Shutdown | None = None) -> None:
        """Enqueue the jobs of due firings, and sleep in between, until `shutdown` is set.

        If the store does not answer, or has no owner, the scheduler tries again every second.

        Raises:
            AlreadyRunning: This scheduler is already running.
            TaqubaError: The queue was closed or fenced, or the service has ended.
        """
        check_shutdown(shutdown)
        if self._running:
            raise AlreadyRunning
        self._running = True
        self._name = name = f"{member_id(self._store)}/{next(_numbers)}"
        _running.add(name)
        # A scheduler may run again on another event loop.
        self._wake = asyncio.Event()
        self._cut_off, self._last_moment = False, None
        stopping = None if shutdown is None else asyncio.ensure_future(shutdown.wait())
        if stopping is not None:
            stopping.add_done_callback(self._wind_up)
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
            _running.discard(name)
            self._running = False
            self._asleep = True
            self._ready.set()
            if stopping is not None:
                stopping.remove_done_callback(self._wind_up)
                stopping.cancel()
            if self._last_moment is not None:
                self._last_moment.cancel()

    async def __aenter__(self) -> Self:
        if self._running or self._task is not None:
            raise AlreadyRunning
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
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
        self._looks = [
            asyncio.create_task(self._look(entry), name="taquba-cron-look")
            for entry in self._entries.values()
            if entry.look_at <= now
        ]
        ends = await asyncio.gather(*self._looks, return_exceptions=True)
        looks, self._looks = self._looks, []
        for look, failure in zip(looks, ends, strict=True):
            if not look.cancelled() and failure is not None:
                raise failure
            if look.cancelled() and not self._cut_off:
                raise was_cancelled(look)

    def _wind_up(self, _stopping: object) -> None:
        """The scheduler has to stop: a look under way may end, if the store answers."""
        self._ring()
        self._last_moment = asyncio.get_running_loop().call_later(
            _LAST_LOOK_SECONDS, self._cut_looks_off
        )

    def _cut_looks_off(self) -> None:
        # A firing is stored whole, or not at all; then another process does it.
        self._cut_off = True
        for look in self._looks:
            look.cancel()

    async def _look(self, entry: _Entry) -> None:
        """Enqueue the due firings of one schedule, and plan the next look."""
        schedule = entry.schedule
        started, started_ms = self._clock.now(), self._clock.monotonic_ms()
        if entry.watched_since_ms is None:
            entry.watched_since_ms = started_ms
        watched_for = timedelta(milliseconds=started_ms - entry.watched_since_ms)
        try:
            entry.look_at = await self._fire_due(entry, started, watched_for)
        except (UnreadableSchedule, _JobRefused) as error:
            # This concerns only this schedule.
            _log.error("schedule %r does not fire: %s", schedule.name, error)
            entry.failing_since = entry.failing_since or started
            entry.look_at = self._clock.now() + _UNREADABLE
        except TaqubaError as error:
            if error.permanent:
                raise
            _log.warning("schedule %r will be tried again: %s", schedule.name, error)
            entry.failing_since = entry.failing_since or started
            entry.look_at = self._clock.now() + _RETRY
        else:
            entry.failing_since = None

    async def _fire_due(self, entry: _Entry, started: datetime, watched_for: timedelta) -> datetime:
        """Enqueue the due firings of a schedule; returns when to look at it again."""
        schedule = entry.schedule
        value, is_read = entry.row, False
        while True:
            if value is None:
                # What a crash may undo is not relied on: the firing would be lost.
                value, is_read = await self._store.kv_get(schedule.key, durable=True), True
            stored = self._decoded(entry, value)
            now = self._clock.now()
            if stored is not None and schedule.is_superseded(stored):
                look_at = await self._rest(entry, stored, now)
                if look_at is not None:
                    return look_at
            record = schedule.registered(stored, now, began=entry.looked_at)
            firings = due(
                record,
                now,
                schedule.catch_up,
                watched_for=watched_for,
                # Calls wait while there is no owner, and a firing is not late for that.
                failing_since=entry.failing_since or started,
            )
            if not firings and not is_read:
                # Others may have changed it since the last look. A commit would notice that.
                value = None
                continue
            if not firings and record == stored and await self._is_held(entry, record):
                break
            if self._entries.get(schedule.name) is not entry:
                break  # removed
            value = await self._commit(entry, value, record, firings)
            if value is not None:
                break
        entry.row = value
        entry.looked_at, entry.rests, entry.newer_missing = now, False, False
        return next_firing(record, now)

    async def _rest(self, entry: _Entry, stored: Record, now: datetime) -> datetime | None:
        """Leave the firings to the newer definition; returns when to look at it again.

        None once no process has it any longer.
        """
        name = entry.schedule.name
        if await self._lives(stored.holder):
            if not entry.rests:
                _log.warning(
                    "schedule %r was defined anew by another process, and fires by the newer "
                    "definition; the one of this process rests until no process has the newer one",
                    name,
                )
            entry.row = None
            entry.looked_at, entry.rests, entry.newer_missing = now, True, False
            return entry.schedule.expression.next_after(now)
        if entry.looked_at is not None and not entry.newer_missing:
            # The process may be about to connect to an owner that has just begun.
            entry.newer_missing = True
            return now + _CONNECTING
        _log.info("schedule %r fires by the definition of this process again", name)
        return None

    async def _is_held(self, entry: _Entry, record: Record) -> bool:
        """Whether others see that the current definition has a process; looked at once a run."""
        return entry.looked_at is not None or await self._lives(record.holder)

    async def _lives(self, holder: str) -> bool:
        """Whether a scheduler still runs; of another process, whether that takes part."""
        member, _, _ = holder.rpartition("/")
        if member == member_id(self._store):
            return holder in _running
        return any(present.id == member for present in await self._store.members())

    async def _commit(
        self, entry: _Entry, value: bytes | None, record: Record, firings: list[datetime]
    ) -> bytes | None:
        """Store a record, with the jobs of `firings`; None if it is not `value` any longer."""
        schedule = entry.schedule
        record = replace(record, holder=self._name)
        if not firings:
            row = encode(record)
            return row if await self._store.kv_compare_put(schedule.key, value, row) else None
        for start in range(0, len(firings), _JOBS_PER_COMMIT):
            some = firings[start : start + _JOBS_PER_COMMIT]
            record = with_fired(record, some)
            row = encode(record)
            try:
                results = await self._store.enqueue_batch(
                    schedule.requests(some, row), kv_expected={schedule.key: value}
                )
            except EntryChanged:
                return None
            except InvalidArgument as error:
                raise _JobRefused(str(error)) from error
            # Another caller enqueued under these dedup keys, which dropped the record.
            if not any(result.new for result in results) and not (
                await self._store.kv_compare_put(schedule.key, value, row)
            ):
                return None
            value = row
        return value

    @staticmethod
    def _decoded(entry: _Entry, value: bytes | None) -> Record | None:
        """The stored record of a schedule that is registered here, which knows its expression."""
        schedule = entry.schedule
        return None if value is None else decode(schedule.key, value, schedule.expression)

    async def _change(self, name: str, change: Callable[[Record], Record]) -> None:
        key = KEY_PREFIX + name
        entry = self._entries.get(name)
        changed = False
        while not changed:
            value = await self._store.kv_get(key)
            if entry is None:
                stored = None if value is None else decode(key, value)
            else:
                # One that has not run yet can be paused before it does.
                stored = self._decoded(entry, value)
                stored = stored or entry.schedule.registered(None, self._clock.now())
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
