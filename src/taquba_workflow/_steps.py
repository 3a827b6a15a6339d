"""A step: the job that carries it, and the view of its runner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgpack

from taquba import CancelToken, JobRecord, LeaseHandle, PermanentFailure
from taquba.extending import UNREADABLE, describe
from taquba_workflow import _headers
from taquba_workflow._effects import StepEffects
from taquba_workflow._memo import Memo
from taquba_workflow._outcomes import StepOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a run, as its runner sees it.

    Attributes:
        run_id: The run's id.
        step_number: From 0.
        payload: The run's input for step 0, then the payload that the step before passed on.
        headers: The headers of the run's submission.
        job_id: Id of the job that carries the step; the same in every attempt.
        attempts: Attempts started, including this one. More than 1 means that an earlier one may
            have had effects outside the store.
        cancel_token: Fires when the run is asked to cancel; stop, and return or raise anything.
        lease: The lease of the job; the runtime renews it while the step runs.
        memo: Values that the step remembers beyond this attempt.
        effects: Changes to commit together with the step's outcome.
        signal: The signal that ended the wait before this step; None after a timeout, and if the
            step waited for none. The same in every attempt.
    """

    run_id: str
    step_number: int
    payload: bytes
    headers: Mapping[str, str]
    job_id: str
    attempts: int
    cancel_token: CancelToken
    lease: LeaseHandle
    memo: Memo
    effects: StepEffects
    signal: bytes | None


class Runner(Protocol):
    """The code of a workflow."""

    async def run_step(self, step: Step) -> StepOutcome:
        """Run one step and return how the run continues.

        It runs at least once per step, each time until it returns or raises. `StepError.permanent`
        ends the run as failed; any other exception is tried again while attempts are left.
        """
        ...


class FunctionTurn(NamedTuple):
    """What the job of a function's turn carries beside what every step has."""

    name: str
    version: int
    parent: str | None
    """The run that this one is a child of."""
    started_at: int
    """When it was to begin, ms."""
    cancelling: bool
    children: int
    """How many children it waited for."""
    signals: dict[str, bytes]
    """Signals that ended waits, by key."""
    taken: list[str]
    """Keys it could not wait for, because another run does."""


class StepJob(NamedTuple):
    """A step as its job carries it."""

    queue: str
    job_id: str
    priority: int
    attempts: int
    run_id: str
    step_number: int
    payload: bytes
    headers: dict[str, str]
    input_hash: bytes
    submitted_at: int
    max_attempts: int
    waited_for: tuple[str, ...]
    """Keys of the signals that ended, or did not end, the wait before this step."""
    signal: bytes | None
    kept: dict[str, str]
    """Headers of the runtime that go on to the next step."""
    function: FunctionTurn | None
    """Set where the step is a turn of a function."""


def read_step(job: JobRecord) -> StepJob:
    """The step that a job carries.

    Raises:
        PermanentFailure: It carries none; somebody else enqueued it.
    """
    try:
        own, headers = _headers.split(job.headers)
        payload, signal, function = job.payload, job.wake_payload, None
        waited_for: tuple[str, ...] = ()
        if _headers.FUNCTION in own:
            payload, function = _read_turn(job, own)
            signal = None
            waited_for = tuple(json.loads(own.get(_headers.SIGNALS, "[]")))
        elif _headers.SIGNAL in own:
            waited_for = (own[_headers.SIGNAL],)
        elif own.get(_headers.CARRIES) == _headers.CARRIES_SIGNAL:
            payload, signal = msgpack.unpackb(payload)
        return StepJob(
            job.queue,
            job.id,
            job.priority,
            job.attempts,
            own[_headers.RUN_ID],
            int(own[_headers.STEP]),
            payload,
            headers,
            bytes.fromhex(own[_headers.INPUT]),
            int(own[_headers.SUBMITTED_AT]),
            int(own[_headers.MAX_ATTEMPTS]),
            waited_for,
            signal,
            _headers.kept(own),
            function,
        )
    except UNREADABLE as error:
        raise PermanentFailure(
            f"job {job.id!r} is not a step of a run ({describe(error)}): "
            f"queue {job.queue!r} is the workflow runtime's own, start runs with submit()"
        ) from None


def _read_turn(job: JobRecord, own: Mapping[str, str]) -> tuple[bytes, FunctionTurn]:
    payload: bytes = job.payload
    signals: dict[str, bytes] = {}
    taken: list[str] = []
    if own.get(_headers.CARRIES) == _headers.CARRIES_SIGNALS:
        payload, signals, taken = msgpack.unpackb(payload)
    if job.wake_payload is not None:
        key, content = decode_wake(job.wake_payload)
        signals[key] = content
    return payload, FunctionTurn(
        own[_headers.FUNCTION],
        int(own[_headers.VERSION]),
        own.get(_headers.PARENT),
        int(own[_headers.STARTED_AT]),
        _headers.CANCELLING in own,
        int(own.get(_headers.CHILDREN, "0")),
        signals,
        taken,
    )


def encode_wake(key: str, signal: bytes) -> bytes:
    """What a function's turn is woken with: it may wait for several signals."""
    packed: bytes = msgpack.packb((key, signal))
    return packed


def decode_wake(packed: bytes) -> tuple[str, bytes]:
    key, signal = msgpack.unpackb(packed)
    return key, signal
