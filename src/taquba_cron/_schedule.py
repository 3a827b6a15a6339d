"""A registered schedule, the jobs it makes, and the information about it."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, get_args

from taquba import (
    Duration,
    EnqueueRequest,
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    KvKey,
    ReadableStore,
)
from taquba.extending.checks import duration_ms
from taquba.extending.times import from_ms, to_ms
from taquba.extending.walks import pages
from taquba_cron._errors import UnreadableSchedule
from taquba_cron._expression import CronExpression
from taquba_cron._record import (
    KEY_PREFIX,
    CatchUp,
    Record,
    decode,
    next_firing,
    supersedes,
    told,
    under,
)

_MAX_NAME_BYTES: Final = 255
# Control characters, and characters that UTF-8 cannot hold.
_UNUSABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_MAX_JITTER_MS: Final = 24 * 3600 * 1000

_DEDUP_KEY: Final = re.compile(r"cron:.*:(\d+)", re.DOTALL)


class Schedule:
    """What to enqueue, and when."""

    def __init__(
        self,
        name: str,
        expression: CronExpression,
        template: EnqueueRequest,
        *,
        jitter: Duration,
        catch_up: CatchUp,
    ) -> None:
        self.name = _name(name)
        self.key = KEY_PREFIX + name
        self.catch_up: CatchUp = _catch_up(catch_up)
        self.expression = expression
        self._template = template
        jitter_ms = duration_ms(jitter, "jitter", maximum=_MAX_JITTER_MS)
        self._jitter = timedelta(milliseconds=jitter_ms)
        self.definition = _mark(expression, template, jitter_ms, catch_up)
        """Stands for everything that was registered under the name."""

    def is_superseded(self, stored: Record) -> bool:
        """Whether the store holds a newer definition of this schedule."""
        return supersedes(stored, self.definition)

    def registered(
        self, stored: Record | None, now: datetime, *, began: datetime | None = None
    ) -> Record:
        """The record under the definition of this schedule.

        A schedule that is new, or fires at other times than before, begins now. So does one that
        began later than now, because the wall clock was set back.

        Args:
            stored: The record so far.
            now: Wall time.
            began: Since when firings at other times than before count instead, unless the record
                began or was resumed later.
        """
        queue_name = self._template.queue
        if stored is None:
            return under(Record(self.expression, queue_name, since=now), self.definition)
        since = min(stored.since, now)
        if stored.expression != self.expression:
            since = now if began is None else max(began, since)
        record = replace(stored, expression=self.expression, queue_name=queue_name, since=since)
        return under(record, self.definition)

    def requests(self, firings: Sequence[datetime], row: bytes) -> list[EnqueueRequest]:
        """The jobs of `firings`; each new one takes the record's `row` into its commit."""
        kv_writes: dict[KvKey, bytes] = {self.key: row}
        return [
            replace(
                self._template,
                run_at=self._run_at(firing),
                dedup_key=f"cron:{self.name}:{to_ms(firing)}",
                kv_writes=kv_writes,
            )
            for firing in firings
        ]

    def _run_at(self, firing: datetime) -> datetime | None:
        # Random rather than derived from the name, so that installations with the same schedules
        # spread as well. The job is committed once, so it is drawn once.
        return firing + random.random() * self._jitter if self._jitter else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInfo:
    """Information about a schedule.

    Attributes:
        name: The schedule.
        expression: Its cron expression.
        timezone: The IANA zone in which the expression is read.
        queue_name: Where its jobs go.
        next_fire: When it fires next, in UTC; None while it is paused.
        last_fired: The time, in UTC, for which it fired last; None if it never fired.
        paused: Whether firings are dropped until it is resumed.
        problem: Why the stored schedule cannot be read, for example because its time zone is not
            known here, and what to do about it. The other attributes then hold what could be read.
    """

    name: str
    expression: str
    timezone: str
    queue_name: str
    next_fire: datetime | None
    last_fired: datetime | None
    paused: bool
    problem: str | None = None


def info(name: str, record: Record, now: datetime) -> ScheduleInfo:
    return ScheduleInfo(
        name=name,
        expression=record.expression.expression,
        timezone=record.expression.timezone,
        queue_name=record.queue_name,
        next_fire=None if record.paused else next_firing(record, now),
        last_fired=record.last_fired,
        paused=record.paused,
    )


def unreadable_info(name: str, value: bytes, problem: UnreadableSchedule) -> ScheduleInfo:
    expression, timezone, queue_name = told(value)
    return ScheduleInfo(
        name=name,
        expression=expression,
        timezone=timezone,
        queue_name=queue_name,
        next_fire=None,
        last_fired=None,
        paused=False,
        problem=str(problem),
    )


async def list_schedules(store: ReadableStore) -> list[ScheduleInfo]:
    """Return every schedule in a store, by name.

    A reader can do this while the owner runs. The store has a schedule from its first start until
    `CronScheduler.remove` removes it, whether or not a program still runs it. A schedule that
    cannot be read has a `problem`.
    """
    now = store.clock.now()
    found: list[ScheduleInfo] = []
    async for page in pages(lambda cursor: store.kv_scan(KEY_PREFIX, cursor)):
        for entry in page.entries:
            name = entry.key.removeprefix(KEY_PREFIX)
            try:
                found.append(info(name, decode(entry.key, entry.value), now))
            except UnreadableSchedule as problem:
                found.append(unreadable_info(name, entry.value, problem))
        for odd in page.unreadable:
            why = UnreadableSchedule(odd.name, odd.reason)
            found.append(unreadable_info(odd.name, b"", why))
    return found


def firing_time(job: JobRecord) -> datetime | None:
    """Return the time, in UTC, for which a schedule enqueued a job, without jitter or delay.

    None for a job that no schedule enqueued.
    """
    match = _DEDUP_KEY.fullmatch(job.dedup_key or "")
    return None if match is None else from_ms(int(match[1]))


def _mark(
    expression: CronExpression, template: EnqueueRequest, jitter_ms: int, catch_up: CatchUp
) -> str:
    said = [
        expression.expression,
        expression.timezone,
        template.queue,
        hashlib.sha256(template.payload).hexdigest(),
        sorted((template.headers or {}).items()),
        template.priority,
        template.max_attempts,
        jitter_ms,
        catch_up,
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _name(name: str) -> str:
    if not isinstance(name, str):
        raise InvalidArgumentType(f"the name of a schedule must be a str, not {name!r}")
    size = len(name.encode(errors="replace"))
    if not 1 <= size <= _MAX_NAME_BYTES or _UNUSABLE.search(name):
        raise InvalidArgument(
            f"the name of a schedule has 1 to {_MAX_NAME_BYTES} UTF-8 bytes and no control "
            f"characters; got {name!r}"
        )
    return name


def _catch_up(value: CatchUp) -> CatchUp:
    if value not in get_args(CatchUp):
        raise InvalidArgument(f"catch_up must be 'none', 'latest' or 'all'; got {value!r}")
    return value
