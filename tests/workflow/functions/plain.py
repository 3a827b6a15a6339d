"""What functions do, without a store: programs, and what each has come to after some events.

Nothing here is kept from one event to the next: where a run is follows from its program, and from
when it was started, signalled and cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Op = Sequence[Any]
"""A call: ``["step", name, failures]``, ``["sleep", seconds]``, ``["wait", key, timeout]``,
``["gather", programs]``, ``["child", program]``, ``["undo", name]`` or ``["raise", name]``."""

Program = Sequence[Op]

BACKOFF = 2


class Moment(NamedTuple):
    """A time, and the number of the event in which something happened then."""

    second: int
    event: int


@dataclass
class World:
    """What has happened so far."""

    now: Moment = field(default_factory=lambda: Moment(0, 0))
    ticks: list[Moment] = field(default_factory=list[Moment])
    """Where the clock was moved to."""
    signals: dict[str, list[tuple[Moment, str]]] = field(default_factory=dict[str, Any])
    taken: dict[str, Moment] = field(default_factory=dict[str, Moment])
    """When the wait for a signal ended with one."""
    undone: set[str] = field(default_factory=set[str])

    def reach(self, start: Moment, second: int) -> Moment | None:
        """When that time came for somebody who waited from `start`."""
        if second <= start.second:
            return start
        came = (Moment(second, tick.event) for tick in self.ticks if tick.second >= second)
        return next(came, None)


@dataclass
class State:
    """How far a line of calls has come."""

    at: Moment
    trace: list[str] = field(default_factory=list[str])
    undo: list[str] = field(default_factory=list[str])
    due: list[int] = field(default_factory=list[int])
    keys: list[str] = field(default_factory=list[str])
    children: int = 0
    error: str | None = None

    @property
    def waits(self) -> bool:
        return bool(self.due or self.keys or self.children)

    def absorb(self, other: State) -> None:
        self.undo += other.undo
        self.due += other.due
        self.keys += other.keys
        self.children += other.children


def follow(program: Program, start: Moment, world: World, until: Moment | None) -> State:
    """Where calls that began at `start` are, of a run that was cancelled at `until`."""
    state = State(start)
    for op in program:
        _CALLS[op[0]](state, world, until, *op[1:])
        if state.waits or state.error is not None:
            break
    return state


def _came(moment: Moment | None, until: Moment | None) -> bool:
    return moment is not None and (until is None or moment < until)


def _step(state: State, world: World, until: Moment | None, name: str, failures: int) -> None:
    for failure in range(failures):
        due = state.at.second + BACKOFF * 2**failure
        then = world.reach(state.at, due)
        if not _came(then, until):
            state.due.append(due)
            return
        assert then is not None
        state.at = then
    state.trace.append(name)


def _sleep(state: State, world: World, until: Moment | None, seconds: int) -> None:
    due = state.at.second + seconds
    then = world.reach(state.at, due)
    if not _came(then, until):
        state.due.append(due)
        return
    assert then is not None
    state.at = then


def _wait(state: State, world: World, until: Moment | None, key: str, timeout: int | None) -> None:
    sent = world.signals.get(key, [])
    # Of those that came before, the newest is kept; then the first one that comes is taken.
    before = [signal for signal in sent if signal[0] <= state.at][-1:]
    due = None if timeout is None else state.at.second + timeout
    over = None if due is None else world.reach(state.at, due)
    after = [
        signal
        for signal in sent
        if signal[0] > state.at and (over is None or signal[0] < over) and _came(signal[0], until)
    ]
    for moment, payload in (*before, *after[:1]):
        state.at = max(state.at, moment)
        state.trace.append(payload)
        world.taken[key] = moment
        return
    if _came(over, until):
        assert over is not None
        state.at = over
        state.trace.append("-")
        return
    state.keys.append(key)
    if due is not None:
        state.due.append(due)


def _gather(state: State, world: World, until: Moment | None, programs: Sequence[Program]) -> None:
    branches = [follow(program, state.at, world, until) for program in programs]
    for branch in branches:
        state.absorb(branch)
    if state.waits:
        return
    state.at = max([branch.at for branch in branches], default=state.at)
    for branch in branches:
        state.error = state.error or branch.error
        state.trace.append(f"({' '.join(branch.trace)})")


def _child(state: State, world: World, until: Moment | None, program: Program) -> None:
    child = follow(program, state.at, world, until)
    if child.waits:
        if until is not None:
            world.undone.update(child.undo)
        state.children += 1
        return
    state.at = child.at
    if child.error is None:
        state.trace.append(f"[{' '.join(child.trace)}]")
    else:
        world.undone.update(child.undo)
        state.trace.append(f"[{child.error}]")


def _undo(state: State, world: World, until: Moment | None, name: str) -> None:
    state.undo.append(name)


def _raise(state: State, world: World, until: Moment | None, name: str) -> None:
    state.error = f"LookupError: {name}"


_CALLS: dict[str, Any] = {
    "step": _step,
    "sleep": _sleep,
    "wait": _wait,
    "gather": _gather,
    "child": _child,
    "undo": _undo,
    "raise": _raise,
}


class Picture(NamedTuple):
    """What there is to see of a run."""

    state: str
    said: str | None
    starts: int | None
    keys: frozenset[str]


def look(program: Program, start: Moment, world: World, cancelled: Moment | None) -> Picture:
    """What a run has come to."""
    state = follow(program, start, world, cancelled)
    if not state.waits:
        if state.error is None:
            return Picture("succeeded", " ".join(state.trace), None, frozenset())
        world.undone.update(state.undo)
        return Picture("failed", state.error, None, frozenset())
    if cancelled is not None:
        world.undone.update(state.undo)
        return Picture("cancelled", "cancelled on request", None, frozenset())
    return Picture(
        "waiting" if state.keys or state.children else "sleeping",
        None,
        min(state.due, default=None),
        frozenset(state.keys),
    )
