"""Checks of an object store, or of a folder that serves as one, by requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from taquba._objects import fitness
from taquba._objects.location import StoreLocation
from taquba._objects.probe import Action, Probe, probing
from taquba._objects.problems import Problem
from taquba.doctor._diagnosis import Check

_CLOCK_TOLERANCE_SECONDS: Final = 10.0
"""Half the age at which the collector of write-ahead files considers one old: it compares the
store's time with the machine's."""


class _Need(NamedTuple):
    name: str
    detail: str
    attempt: Callable[[Probe], Awaitable[object]]
    action: Action | None = None
    """The kind of request whose round trip this check reports."""


_FIRST_NEEDS: Final = (
    _Need("reach", "it answers, and can be listed", Probe.names),
    _Need("write", "objects can be written", fitness.writes, "write"),
)
"""If one of these fails, everything would."""

_NEEDS: Final = (
    _Need(
        "read after write",
        "reads return an object that was just written",
        fitness.reads_what_was_written,
        "read",
    ),
    _Need(
        "list after write",
        "listings contain an object that was just written",
        fitness.lists_what_was_written,
        "list",
    ),
    _Need(
        "delete",
        "a deleted object is no longer read or listed",
        fitness.forgets_what_was_deleted,
        "delete",
    ),
)

_DATABASE_NEEDS: Final = (
    _Need(
        "conditional create",
        "an object is created once, and a second create is refused",
        fitness.creates_once,
    ),
    _Need(
        "concurrent creates",
        "of several creates of one object at the same time, one is accepted",
        fitness.lets_one_rival_create,
    ),
)
"""Checks that payloads do not need."""

_BUCKET_NEEDS: Final = (
    _Need(
        "conditional update",
        "an object is replaced only by a request that names its current version",
        fitness.updates_current_version,
    ),
)
"""Checks that the storage engine does not need on a local folder."""


async def check_requests(location: StoreLocation, *, database: bool) -> list[Check]:
    """The checks that send requests; they end at a failure that all later ones would share.

    `database` is whether the location is for one, and not for payloads only.
    """
    needs: tuple[_Need, ...] = _NEEDS
    if database:
        needs += _DATABASE_NEEDS if location.folder else _DATABASE_NEEDS + _BUCKET_NEEDS
    checks: list[Check] = []
    try:
        async with probing(location) as probe:
            for need in _FIRST_NEEDS:
                checks.append(await _check_need(probe, need))
                if not checks[-1].ok:
                    return checks
            checks += [await _check_need(probe, need) for need in needs]
            checks.append(await _check_clock(probe))
    except Problem as problem:
        checks.append(_failed("reach", problem))
    return checks


def is_usable(checks: list[Check]) -> bool:
    """Whether the location can be used at all, so that the other checks were made."""
    return len(checks) > len(_FIRST_NEEDS)


def _failed(name: str, problem: Problem) -> Check:
    return Check(name=name, ok=False, detail=problem.what, remedy=problem.remedy)


async def _check_need(probe: Probe, need: _Need) -> Check:
    try:
        await fitness.settle(probe, need.attempt)
    except Problem as problem:
        return _failed(need.name, problem)
    round_trip = None if need.action is None else probe.round_trip_ms(need.action)
    return Check(name=need.name, ok=True, detail=need.detail, round_trip_ms=round_trip)


async def _check_clock(probe: Probe) -> Check:
    """Compare this machine's clock with the time that the store gives a new object."""
    try:
        before = datetime.now(UTC)
        await probe.overwrite("clock", b"")
        after = datetime.now(UTC)
        stamped = await probe.modified_at("clock")
    except Problem as problem:
        return _failed("clock", problem)
    # Object stores report the time in whole seconds, rounded down.
    ahead = max((stamped - after).total_seconds(), 0)
    behind = max((before - stamped).total_seconds() - 1, 0)
    skew = max(ahead, behind)
    which = "ahead of" if ahead else "behind"
    if skew > _CLOCK_TOLERANCE_SECONDS:
        return Check(
            name="clock",
            ok=False,
            detail=f"the store's clock is {skew:.0f} s {which} this machine's",
            remedy="set this machine's clock and keep it synchronised (NTP); files that are still "
            "needed may otherwise be taken for old ones and removed",
        )
    detail = f"the clocks of the store and of this machine differ by {skew:.1f} s at most"
    return Check(name="clock", ok=True, detail=detail)
