"""When a cron expression fires: fields matched in local time, local times mapped to instants."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from taquba import InvalidArgument
from taquba_cron._errors import InvalidCronExpression, UnknownTimezone

_FIELDS: Final = "minute, hour, day of month, month, day of week"
_REMEDY: Final = f"write five fields ({_FIELDS}), for example '30 9 * * MON-FRI'"

# A step over a range of one value ends with the range, but the parser takes "5-5/2" for "5/2".
_STEP_OVER_ONE_VALUE: Final = re.compile(r"\b0*(\w+)-0*\1/0*[1-9]\d*\b", re.IGNORECASE)
_STEP_OVER_MIXED_RANGE: Final = re.compile(r"\b([a-z]+-\d+|\d+-[a-z]+)/", re.IGNORECASE)

_ANY_MOMENT: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - local time of no zone in particular
"""Where the search for a first match starts; the calendar repeats, so one place is enough."""


@dataclass(frozen=True, slots=True)
class CronExpression:
    """The times that a five-field cron expression describes in a time zone.

    The fields are minute, hour, day of month, month and day of week (0 and 7 are Sunday), each
    with names, ranges, lists and steps as in ``*/15 9-17 * * MON-FRI``. When neither day field
    starts with ``*``, a day that matches either of them matches.

    Fields are compared with the zone's local time. A local time that the clocks skip fires once,
    at the first instant after the gap; all times skipped by one gap fire together. A local time
    that the clocks repeat fires once, the first time.

    Examples:
        >>> daily = CronExpression("30 2 * * *", "Europe/Berlin")
        >>> daily.next_after(datetime(2030, 3, 30, 12, tzinfo=UTC))  # 02:30 is skipped on the 31st
        datetime.datetime(2030, 3, 31, 1, 0, tzinfo=datetime.timezone.utc)

    Raises:
        InvalidCronExpression: The expression cannot be read, or never fires (``0 0 30 2 *``).
        UnknownTimezone: `timezone` is not the name of an IANA zone.
    """

    expression: str
    timezone: str = "UTC"
    _readable: str = field(init=False, repr=False, compare=False)
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_readable", _readable(self.expression))
        object.__setattr__(self, "_zone", _zone_named(self.timezone))

    def next_after(self, moment: datetime) -> datetime:
        """Return the first firing later than `moment`, in UTC.

        Raises:
            InvalidArgument: `moment` is naive.
        """
        _check_aware(moment)
        # No local time up to that of `moment` belongs to a later instant: the mapping ascends.
        # The reverse is not true: within a repeated hour the next matches lie in the past.
        local_times = CronSim(self._readable, _naive(moment.astimezone(self._zone)))
        return next(instant for instant in map(self._instant, local_times) if instant > moment)

    def newest_first(self, until: datetime) -> Iterator[datetime]:
        """The firings up to and including `until`, back in time, in UTC.

        Raises:
            InvalidArgument: `until` is naive.
        """
        _check_aware(until)
        # In a repeated hour, the clocks have already shown later times, the first time round.
        first_time = until.astimezone(self._zone).replace(fold=0)
        shown = _naive(until.astimezone(UTC)) + cast("timedelta", first_time.utcoffset())
        # The walk starts before the second it is given.
        start = shown.replace(microsecond=0) + timedelta(seconds=1)
        local_times = CronSim(self._readable, start, reverse=True)
        previous = None
        for instant in map(self._instant, local_times):
            if instant <= until and instant != previous:
                yield instant
                previous = instant

    def _instant(self, local: datetime) -> datetime:
        """When the clocks of the zone show `local`: the first time, or the end of the gap."""
        instant = local.replace(tzinfo=self._zone).astimezone(UTC)
        if _naive(instant.astimezone(self._zone)) == local:
            return instant
        # Skipped: read with the offset after the gap it lies before the change, and vice versa.
        before = local.replace(tzinfo=self._zone, fold=1).astimezone(UTC)
        seconds = range(int(before.timestamp()), int(instant.timestamp()) + 1)
        end_of_gap = bisect_right(seconds, local, key=self._local_time_at)
        return datetime.fromtimestamp(seconds[end_of_gap], UTC)

    def _local_time_at(self, timestamp: int) -> datetime:
        return _naive(datetime.fromtimestamp(timestamp, self._zone))


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None, fold=0)


def _check_aware(moment: datetime) -> None:
    if moment.tzinfo is None:
        raise InvalidArgument(
            f"a moment must be timezone-aware; {moment!r} is naive: "
            "add a zone, for example datetime.now(UTC)"
        )


def _readable(expression: str) -> str:
    """The expression in the syntax of the parser; one that it cannot read is refused."""
    if not isinstance(expression, str) or len(expression.split()) != 5:
        raise InvalidCronExpression(expression, _REMEDY)
    if mixed := _STEP_OVER_MIXED_RANGE.search(expression):
        raise InvalidCronExpression(expression, f"write both ends of {mixed[1]} as numbers")
    readable = _STEP_OVER_ONE_VALUE.sub(r"\1", expression)
    try:
        matches = CronSim(readable, _ANY_MOMENT)
    # ValueError: a number of thousands of digits.
    except (CronSimError, ValueError) as error:
        raise InvalidCronExpression(expression, f"{error}; {_REMEDY}") from None
    if next(matches, None) is None:
        raise InvalidCronExpression(
            expression, "no day ever matches it; check day of month, month and day of week"
        )
    return readable


def _zone_named(name: str) -> ZoneInfo:
    if not isinstance(name, str):
        raise UnknownTimezone(name)
    try:
        return ZoneInfo(name)
    # ValueError: a path that leaves the database; OSError: a folder of it, such as "Europe".
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UnknownTimezone(name) from None
