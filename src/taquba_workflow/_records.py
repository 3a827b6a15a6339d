"""The rows of runs, and the views that callers see.

A run has one row. While the run lives the row says which job is its step; after its end, how it
ended. It is written only by commits that also enqueue, settle or remove that one job, so the two
never disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple

import msgpack

from taquba import EnqueueRequest, KvKey
from taquba.extending import WordEnum
from taquba.extending.times import from_ms
from taquba_workflow import _values


class RunState(WordEnum):
    """Where a run is."""

    PENDING = "pending"
    """Its step waits for a worker."""
    RUNNING = "running"
    """A worker has its step."""
    SLEEPING = "sleeping"
    """Its step waits for its time: a delay, or the wait before a retry."""
    WAITING = "waiting"
    """Its step waits for a signal, or for child runs."""
    CANCELLING = "cancelling"
    """It was asked to cancel and ends when its step settles."""
    SUCCEEDED = "succeeded"
    """It has a result."""
    FAILED = "failed"
    """It failed for good, with a reason."""
    CANCELLED = "cancelled"
    """It was cancelled by a caller or by its step."""

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self in _ENDS


_ENDS: Final = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run to submit.

    Attributes:
        input: Payload of the first step.
        run_id: Custom id, 1 to 128 characters of ``[A-Za-z0-9_-]``; None makes one. Submitting the
            same id and input again changes nothing.
        headers: Small string pairs that every step and the terminal hook see. Names that start
            with ``workflow.`` are reserved.
        kv_writes: Caller-owned entries written with the submission, if the run is new. Keys that
            start with ``workflow/`` are reserved.
        priority: Priority of all steps; unsigned 32-bit, lower first. Default: the queue's.
        max_attempts: Attempts of each step, at least 1. Default: the queue's.
        run_at: Earliest start of the first step, timezone-aware.
    """

    input: bytes
    run_id: str | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], kw_only=True)
    kv_writes: Mapping[KvKey, bytes] = field(default_factory=dict[KvKey, bytes], kw_only=True)
    priority: int | None = field(default=None, kw_only=True)
    max_attempts: int | None = field(default=None, kw_only=True)
    run_at: datetime | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _values.content(self.input, "input")
        if self.run_id is not None:
            _values.run_id(self.run_id)
        # Everything else follows the rules of the job that it becomes.
        request = EnqueueRequest(
            "workflow",
            self.input,
            run_at=self.run_at,
            priority=self.priority,
            max_attempts=self.max_attempts,
            headers=self.headers,
            kv_writes=self.kv_writes,
        )
        _values.not_reserved(request)

    def input_hash(self) -> bytes:
        """SHA-256 of the input."""
        return sha256(self.input).digest()


class SubmitOutcome(NamedTuple):
    """The result of `submit`.

    Attributes:
        run_id: The run's id.
        new: False if the run had been submitted before; then nothing was written.
    """

    run_id: str
    new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The status of a run when it was read.

    Attributes:
        run_id: Its id.
        state: Its state.
        step_number: Its current step, from 0; the last one of a run that ended.
        attempts: Attempts at that step so far; 0 for a run that ended.
        submitted_at: When it was submitted.
        starts_at: When its step starts, or stops waiting for a signal; None if it does not wait, or
            waits forever.
        signal_keys: The signals for which it waits; a function may wait for several.
        last_error: Error of the newest failed attempt at its step.
        result: The result of a run that succeeded.
        reason: Why it failed or was cancelled.
        ended_at: When it ended.
    """

    run_id: str
    state: RunState
    step_number: int
    submitted_at: datetime
    attempts: int = 0
    starts_at: datetime | None = None
    signal_keys: tuple[str, ...] = ()
    last_error: str | None = None
    result: bytes | None = None
    reason: str | None = None
    ended_at: datetime | None = None


class LiveRun(NamedTuple):
    """The row of a run that has not ended. Times are ms since the Unix epoch."""

    input_hash: bytes
    submitted_at: int
    step_number: int
    job_id: str


class EndedRun(NamedTuple):
    """The row of a run that ended, as long as retention keeps it."""

    input_hash: bytes
    submitted_at: int
    step_number: int
    state: RunState
    ended_at: int
    result: bytes | None
    """As packed for the row."""
    reason: str | None


_LIVE: Final = 0
_ENDED: Final = 1


def encode_run(run: LiveRun | EndedRun) -> bytes:
    packed: bytes
    if isinstance(run, LiveRun):
        packed = msgpack.packb((_LIVE, *run))
    else:
        # Packs a StrEnum as the str it is.
        packed = msgpack.packb((_ENDED, *run))
    return packed


def decode_run(row: bytes) -> LiveRun | EndedRun:
    """The row of a run; raises one of `UNREADABLE` if it is damaged."""
    kind, *fields = msgpack.unpackb(row)
    if kind == _LIVE:
        live = LiveRun(*fields)
        _check_times(live.submitted_at)
        return live
    ended = EndedRun(*fields)
    _check_times(ended.submitted_at, ended.ended_at)
    return ended._replace(state=RunState(ended.state))


def _check_times(*times: int) -> None:
    for ms in times:
        from_ms(ms)


class Waiter(NamedTuple):
    """The row of a signal that a run waits for.

    It is true only while that job has not begun: the row of a wait that ended stays until the
    step after it settles.
    """

    run_id: str
    job_id: str


class Buffered(NamedTuple):
    """The row of a signal that arrived before a run waited for it."""

    payload: bytes


_WAITER: Final = 0
_BUFFERED: Final = 1


def encode_signal(row: Waiter | Buffered) -> bytes:
    packed: bytes = msgpack.packb((_WAITER if isinstance(row, Waiter) else _BUFFERED, *row))
    return packed


def decode_signal(row: bytes) -> Waiter | Buffered:
    kind, *fields = msgpack.unpackb(row)
    return Waiter(*fields) if kind == _WAITER else Buffered(*fields)
