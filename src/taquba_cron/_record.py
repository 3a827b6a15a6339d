"""The stored record of a schedule, and by it: which firings are due, and which one is next.

Pure functions of the record, the expression and the time; nothing here touches a store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Final, Literal, cast

from taquba import InvalidArgument
from taquba.extending import UNREADABLE
from taquba.extending.times import from_ms, to_ms
from taquba_cron._errors import UnreadableSchedule
from taquba_cron._expression import CronExpression

CatchUp = Literal["none", "latest", "all"]
"""Which missed firings are made up for: none of them, the latest, or all."""

CATCH_UP_LIMIT: Final = 1000
"""How many missed firings ``catch_up="all"`` makes up for at most: the latest ones."""

KEY_PREFIX: Final = "cron/"
"""Where the records are, among the caller-owned entries of a store."""

_ON_TIME: Final = timedelta(minutes=1)
"""How late a firing may be, because the event loop was busy, and still count as on time."""

_MAX_RUNS: Final = 8
_MAX_DEFINITIONS: Final = 16
"""How many are remembered; one that was forgotten counts as new."""

Run = tuple[datetime, datetime]
"""The first and the last of consecutive firings."""


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a schedule in a store.

    Attributes:
        expression: When it fires, as last registered.
        queue_name: Where its jobs go.
        since: When it was registered, changed or resumed; firings up to then do not count.
        fired: Which firings happened, as runs without a gap, in order. There is more than one run
            if firings were missed or the wall clock was set. With a single run, a clock that is set
            back would repeat firings, or keep the schedule silent until the clock has caught up
            with a wrong time.
        paused: Whether firings are dropped.
        definitions: Marks of the definitions under which programs have registered it, in the order
            in which the store saw them first.
        current: Mark of the definition by which it fires.
        holder: The scheduler that fired it last, or that made `current` current.
    """

    expression: CronExpression
    queue_name: str
    since: datetime
    fired: tuple[Run, ...] = ()
    paused: bool = False
    definitions: tuple[str, ...] = ()
    current: str = ""
    holder: str = ""

    @property
    def last_fired(self) -> datetime | None:
        return self.fired[-1][1] if self.fired else None


def next_firing(record: Record, after: datetime) -> datetime:
    """The first firing later than `after` that has not happened yet."""
    firing = record.expression.next_after(after)
    for first, last in record.fired:
        if first <= firing <= last:
            firing = record.expression.next_after(last)
    return firing


def due(
    record: Record,
    now: datetime,
    catch_up: CatchUp,
    *,
    watched_for: timedelta,
    failing_since: datetime | None,
) -> list[datetime]:
    """The firings that must happen now, oldest first.

    Args:
        record: The schedule.
        now: Wall time.
        catch_up: Which missed firings are made up for.
        watched_for: How long a scheduler has been watching.
        failing_since: When the looks began to fail, if they have failed until now. A firing of that
            time or later is not late: a scheduler was watching, but the store was unavailable.
    """
    if record.paused:
        return []
    if catch_up == "none":
        came = now if failing_since is None else failing_since
        latest = _missed(record, now, 1)
        return [firing for firing in latest if came - firing < min(_ON_TIME, watched_for)]
    return _missed(record, now, 1 if catch_up == "latest" else CATCH_UP_LIMIT)


def _missed(record: Record, now: datetime, limit: int) -> list[datetime]:
    """The latest firings that did not happen since the last one that did, oldest first."""
    if any(first <= now < last for first, last in record.fired):
        return []  # the clock was set back to a time whose firings have all happened
    marks = (record.since, *(last for _, last in record.fired))
    start = max((mark for mark in marks if mark <= now), default=now)
    newest_first = takewhile(lambda firing: firing > start, record.expression.newest_first(now))
    return list(islice(newest_first, limit))[::-1]


def under(record: Record, definition: str) -> Record:
    """The record once a definition is the current one."""
    if record.current == definition:
        return record
    known = record.definitions
    if definition not in known:
        known = (*known, definition)[-_MAX_DEFINITIONS:]
    return replace(record, definitions=known, current=definition)


def supersedes(record: Record, definition: str) -> bool:
    """Whether the current definition is newer than this one: the store saw it later."""
    known = record.definitions
    return (
        definition in known
        and record.current in known
        and known.index(definition) < known.index(record.current)
    )


def with_fired(record: Record, firings: Iterable[datetime]) -> Record:
    """The record after more firings."""
    runs = list(record.fired)
    for firing in firings:
        for index, (first, last) in reversed(list(enumerate(runs))):
            if record.expression.next_after(last) == firing:
                runs[index] = (first, firing)
                break
        else:
            runs.append((firing, firing))
            runs.sort()
    while len(runs) > _MAX_RUNS:
        # Firings missed long ago count as fired: that is better than firing twice.
        runs[:2] = [(runs[0][0], runs[1][1])]
    return replace(record, fired=tuple(runs))


def encode(record: Record) -> bytes:
    """JSON, so that it can be read without this package."""
    value = {
        "expression": record.expression.expression,
        "timezone": record.expression.timezone,
        "queue": record.queue_name,
        "since_ms": to_ms(record.since),
        "fired_ms": [[to_ms(first), to_ms(last)] for first, last in record.fired],
        "paused": record.paused,
        "definitions": record.definitions,
        "current": record.current,
        "holder": record.holder,
    }
    return json.dumps(value).encode()


def decode(key: str, value: bytes, instead: CronExpression | None = None) -> Record:
    """Read an entry.

    Args:
        key: Where it is.
        value: The entry.
        instead: Replaces the stored expression if that cannot be read here: its time zone may have
            been renamed, or may exist only in newer data.

    Raises:
        UnreadableSchedule: Something else is stored under the key, or an expression or a time
            zone that cannot be read.
    """
    try:
        fields = json.loads(value)
        try:
            expression = CronExpression(fields["expression"], fields["timezone"])
        except InvalidArgument:
            if instead is None:
                raise
            expression = instead
        return Record(
            expression=expression,
            queue_name=_text(fields["queue"]),
            since=from_ms(fields["since_ms"]),
            fired=tuple((from_ms(first), from_ms(last)) for first, last in fields["fired_ms"]),
            paused=cast("bool", fields["paused"]),
            definitions=tuple(map(_text, fields.get("definitions", ()))),
            current=_text(fields.get("current", "")),
            holder=_text(fields.get("holder", "")),
        )
    except UNREADABLE as error:
        raise UnreadableSchedule(key, error) from error


def told(value: bytes) -> tuple[str, str, str]:
    """Expression, time zone and queue of an unreadable record, as far as they can be read."""
    try:
        fields = json.loads(value)
        found = (fields.get("expression"), fields.get("timezone"), fields.get("queue"))
    except UNREADABLE:
        return "", "", ""
    expression, timezone, queue = (text if isinstance(text, str) else "" for text in found)
    return expression, timezone, queue


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
