"""What cron should do, the slow way: look at a clock on the wall once a minute.

Shares nothing with the package, nor with the library that it uses: expressions are made together
with the sets of values that they stand for, so nothing is parsed, and no local time is ever turned
into an instant.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import strategies as st

MINUTE = timedelta(minutes=1)
ZONES = sorted(available_timezones())

MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]


@dataclass(frozen=True)
class Field:
    text: str
    values: frozenset[int]


@dataclass(frozen=True)
class Cron:
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field  # 0 to 7; 0 and 7 are Sunday

    def __str__(self) -> str:
        fields = (self.minute, self.hour, self.day, self.month, self.weekday)
        return " ".join(field.text for field in fields)

    @property
    def fires_at_all(self) -> bool:
        # Leap years and weekdays repeat after 28 years, as long as no century comes between.
        days = (datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(28 * 366))
        return any(self.matches_day(day) for day in days)

    def matches_day(self, local: datetime) -> bool:
        day = local.day in self.day.values
        weekday = local.isoweekday() in self.weekday.values or (
            local.isoweekday() == calendar.SUNDAY + 1 and 0 in self.weekday.values
        )
        restricted = not (self.day.text.startswith("*") or self.weekday.text.startswith("*"))
        day_fits = (day or weekday) if restricted else (day and weekday)
        return day_fits and local.month in self.month.values

    def matches(self, local: datetime) -> bool:
        return (
            local.minute in self.minute.values
            and local.hour in self.hour.values
            and self.matches_day(local)
        )


def shown(zone: ZoneInfo, moment: datetime) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def firings(cron: Cron, zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """Every instant in [start, end) at which a person who watches the wall clock would fire.

    They tick off each minute that the clock shows for the first time; when it skips some, those
    are ticked off together with the one it shows instead. `start` must not lie in a repeated hour.
    """
    ticked = shown(zone, start - MINUTE)
    moment = start
    while moment < end:
        due = False
        while ticked < shown(zone, moment):
            ticked += MINUTE
            due = due or cron.matches(ticked)
        if due:
            yield moment
        moment += MINUTE


def changes(zone: ZoneInfo, year: int) -> list[datetime]:
    """The minutes of a year at which the zone's offset changes."""

    def changing(start: datetime, step: timedelta, count: int) -> list[datetime]:
        moments = [start + n * step for n in range(count + 1)]
        offsets = [moment.astimezone(zone).utcoffset() for moment in moments]
        return [moments[n] for n in range(count) if offsets[n] != offsets[n + 1]]

    days = changing(datetime(year, 1, 1, tzinfo=UTC), timedelta(days=1), 365)
    return [before + MINUTE for day in days for before in changing(day, MINUTE, 24 * 60)]


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, names: list[str] | None = None) -> Field:
    def spelled(value: int) -> str:
        if names is None or draw(st.booleans()):
            return str(value)
        name = names[value - low]
        return name if draw(st.booleans()) else name.lower()

    def item() -> Field:
        kind = draw(st.sampled_from(["one", "range", "steps", "range with steps"]))
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, high))
        if kind == "one":
            return Field(spelled(first), frozenset({first}))
        if kind == "steps":
            return Field(f"*/{step}", frozenset(range(low, high + 1, step)))
        if names is not None and last < 7 and draw(st.booleans()):
            lower, upper = names[first - low], names[last - low]
        else:
            # As a name, Sunday is the first of its two numbers, which ends no range.
            lower, upper = str(first), str(last)
        if kind == "range":
            return Field(f"{lower}-{upper}", frozenset(range(first, last + 1)))
        return Field(f"{lower}-{upper}/{step}", frozenset(range(first, last + 1, step)))

    if draw(st.booleans()):
        return Field("*", frozenset(range(low, high + 1)))
    items = [item() for _ in range(draw(st.integers(1, 3)))]
    values = frozenset[int]().union(*(one.values for one in items))
    return Field(",".join(one.text for one in items), values)


crons = st.builds(
    Cron,
    minute=fields(0, 59),
    hour=fields(0, 23),
    day=fields(1, 31),
    month=fields(1, 12, MONTHS),
    weekday=fields(0, 7, DAYS),
)

EVERY_DAY = {
    "day": Field("*", frozenset(range(1, 32))),
    "month": Field("*", frozenset(range(1, 13))),
    "weekday": Field("*", frozenset(range(8))),
}


@st.composite
def crons_near(draw: st.DrawFn, zone: ZoneInfo, change: datetime) -> Cron:
    """Fires on the hours that the clocks show, skip or repeat when they change."""
    around = [shown(zone, change + n * MINUTE) for n in (-61, -1, 0, 60)]
    hours = draw(st.sets(st.integers(*sorted((min(around).hour, max(around).hour))), min_size=1))
    minutes = draw(st.sets(st.integers(0, 59) | st.sampled_from([0, 30, 59]), min_size=1))
    return Cron(
        minute=Field(",".join(map(str, minutes)), frozenset(minutes)),
        hour=Field(",".join(map(str, hours)), frozenset(hours)),
        **EVERY_DAY,
    )


@dataclass(frozen=True)
class Case:
    cron: Cron
    zone: str
    start: datetime
    end: datetime


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An expression, a zone and a few days, most often around a change of its clocks."""
    name = draw(st.sampled_from(ZONES))
    year = draw(st.integers(1975, 2037))
    zone = ZoneInfo(name)
    found = changes(zone, year)
    day = timedelta(days=1)
    if not found:
        start = datetime(year, 1, 1, tzinfo=UTC) + draw(st.integers(0, 364)) * day
        return Case(draw(crons), name, start, start + 2 * day)
    change = draw(st.sampled_from(found))
    cron = draw(crons | crons_near(zone, change) | crons_near(zone, change))
    start = (change - day).replace(hour=0, minute=0)
    return Case(cron, name, start, start + 3 * day)
