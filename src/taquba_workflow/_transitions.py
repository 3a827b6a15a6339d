"""Every state change of a run, as a pure function of step, outcome and time.

Each returns the changes that must be in one commit with the step's settlement. Nothing here reads,
waits or uses a clock; no other code decides a run's next state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgpack

from taquba import EnqueueRequest, KvKey, SettlementEffects
from taquba.extending import describe
from taquba.extending.times import from_ms, later
from taquba_workflow import _headers
from taquba_workflow._keys import keys_of
from taquba_workflow._outcomes import After, Continue, Immediate, Suspend
from taquba_workflow._records import (
    Buffered,
    EndedRun,
    LiveRun,
    RunSpec,
    RunState,
    Waiter,
    encode_run,
    encode_signal,
)
from taquba_workflow._steps import StepJob
from taquba_workflow._termination import RunOutcome

UNBOUNDED: Final = 2**31 - 1
"""Attempts of a step's job, as its queue sees it.

The queue must never end a step on its own, because it would not end the run: a job whose attempts
are used up while nobody works on it goes back to pending like any other, and the next claim finds
more attempts than the run allows and ends the run.
"""

NEVER: Final = timedelta(days=99 * 365)
"""How long a wait without a timeout lasts."""
_NOTHING: Final = SettlementEffects()
_NO_HEADERS: Final[Mapping[str, str]] = {}
_NO_WRITES: Final[Mapping[KvKey, bytes]] = {}

SignalRows = Mapping[str, Waiter | Buffered | None]
"""Rows of the signals that a transition touches."""


class Basis(NamedTuple):
    """What a transition is based on; it lands only where that is still so."""

    signals: SignalRows
    expected: Mapping[KvKey, bytes | None]
    """The entries that were read for it."""
    unless_cancelled: bool
    """Whether the run was not asked to cancel."""


class Ending(NamedTuple):
    """How a run ends."""

    state: RunState
    result: bytes | None = None
    reason: str | None = None
    packed_result: bytes | None = None
    """The result as the row keeps it."""
    dead_letter: bool = False
    """Whether the step's job is kept as a dead letter, for somebody to look at."""

    @property
    def keeps_staged(self) -> bool:
        """Whether what the step staged is applied: it came to an outcome, other than cancelled."""
        return self.state is not RunState.CANCELLED and not self.dead_letter


def first_step(
    store: str,
    spec: RunSpec,
    run_id: str,
    job_id: str,
    max_attempts: int,
    now_ms: int,
    *,
    own_headers: Mapping[str, str] = _NO_HEADERS,
    own_writes: Mapping[KvKey, bytes] = _NO_WRITES,
) -> EnqueueRequest:
    """A new run: the job of its step 0, which brings the run's row."""
    input_hash = spec.input_hash()
    run = LiveRun(input_hash, now_ms, 0, job_id)
    return EnqueueRequest(
        store,
        spec.input,
        run_at=spec.run_at,
        priority=spec.priority,
        max_attempts=UNBOUNDED,
        dedup_key=_dedup_key(run_id, 0),
        headers={
            **spec.headers,
            **_headers.of_run(input_hash, now_ms, max_attempts),
            **own_headers,
            **_headers.place(run_id, 0),
        },
        job_id=job_id,
        kv_writes={**spec.kv_writes, **own_writes, keys_of(store).run(run_id): encode_run(run)},
    )


def next_step(
    step: StepJob,
    outcome: Continue,
    staged: SettlementEffects,
    basis: Basis,
    job_id: str,
    now: datetime,
) -> SettlementEffects:
    """A run that continues: its next step's job, `job_id`, and the rows of the wait before it."""
    keys = keys_of(step.queue)
    headers: dict[str, str] = {}
    payload = outcome.payload
    run_at = None
    freed = _ended_waits(step, basis.signals)
    writes: dict[KvKey, bytes] = {}
    if isinstance(outcome.when, After):
        run_at = later(now, outcome.when.delay, "delay")
    elif not isinstance(outcome.when, Immediate):
        key = outcome.when.key
        row = basis.signals[key]
        if isinstance(row, Buffered):
            headers[_headers.CARRIES] = _headers.CARRIES_SIGNAL
            payload = msgpack.packb((payload, row.payload))
            freed.add(keys.signal(key))
        else:
            headers[_headers.SIGNAL] = key
            timeout = outcome.when.timeout
            run_at = now + NEVER if timeout is None else later(now, timeout, "timeout")
            writes[keys.signal(key)] = encode_signal(Waiter(step.run_id, job_id))
    successor = _successor(step, payload, headers, run_at, job_id)
    return _moved_on(step, successor, staged, basis, writes, freed)


def next_turn(
    step: StepJob,
    outcome: Suspend,
    basis: Basis,
    taken: Collection[str],
    job_id: str,
    now: datetime,
) -> SettlementEffects:
    """A function that continues: the job of its next turn, `job_id`, and the rows of its waits.

    Args:
        step: The turn that ends.
        outcome: What it waits for.
        basis: With the rows of these signals, and of those that the turn had waited for.
        taken: Those of the signals that another run waits for.
        job_id: Id of the next turn's job.
        now: The time.
    """
    keys = keys_of(step.queue)
    headers: dict[str, str] = {}
    if outcome.cancelling:
        headers[_headers.CANCELLING] = "yes"
    payload = step.payload
    run_at = None
    freed = _ended_waits(step, basis.signals)
    writes: dict[KvKey, bytes] = {**outcome.entries}
    came: dict[str, bytes] = {}
    for key in outcome.signals:
        row = basis.signals[key]
        if isinstance(row, Buffered):
            came[key] = row.payload
    if came or taken:
        headers[_headers.CARRIES] = _headers.CARRIES_SIGNALS
        payload = msgpack.packb((payload, came, list(taken)))
        freed |= {keys.signal(key) for key in came}
    elif not outcome.at_once:
        run_at = now + NEVER if outcome.until is None else outcome.until
        headers[_headers.SIGNALS] = json.dumps(outcome.signals)
        headers[_headers.CHILDREN] = str(len(outcome.children))
        waiter = encode_signal(Waiter(step.run_id, job_id))
        writes |= {keys.signal(key): waiter for key in outcome.signals}
    successor = _successor(step, payload, headers, run_at, job_id)
    return _moved_on(step, successor, _NOTHING, basis, writes, freed)


def _successor(
    step: StepJob,
    payload: bytes,
    headers: Mapping[str, str],
    run_at: datetime | None,
    job_id: str,
) -> EnqueueRequest:
    number = step.step_number + 1
    return EnqueueRequest(
        step.queue,
        payload,
        run_at=run_at,
        priority=step.priority,
        max_attempts=UNBOUNDED,
        dedup_key=_dedup_key(step.run_id, number),
        headers={
            **step.headers,
            **step.kept,
            **headers,
            **_headers.place(step.run_id, number),
        },
        job_id=job_id,
    )


def _moved_on(
    step: StepJob,
    successor: EnqueueRequest,
    staged: SettlementEffects,
    basis: Basis,
    writes: Mapping[KvKey, bytes],
    freed: set[str],
) -> SettlementEffects:
    """The run's row names the successor, which lands with everything else."""
    assert successor.job_id is not None
    run = LiveRun(step.input_hash, step.submitted_at, step.step_number + 1, successor.job_id)
    own: dict[KvKey, bytes] = {keys_of(step.queue).run(step.run_id): encode_run(run)}
    return SettlementEffects(
        enqueues=[*staged.enqueues, successor],
        kv_writes={**staged.kv_writes, **writes, **own},
        kv_deletes=[*staged.kv_deletes, *(freed - writes.keys())],
        kv_expected=basis.expected or None,
        unless_cancelled=basis.unless_cancelled,
    )


def end_run(
    step: StepJob,
    ending: Ending,
    staged: SettlementEffects,
    basis: Basis,
    announce: Callable[[RunOutcome], list[EnqueueRequest]],
    now_ms: int,
) -> SettlementEffects:
    """A run that ends: how, in its row; when it is to be forgotten; and who is told."""
    keys = keys_of(step.queue)
    reason = None if ending.reason is None else describe(ending.reason)
    row = EndedRun(
        step.input_hash,
        step.submitted_at,
        step.step_number,
        ending.state,
        now_ms,
        ending.packed_result,
        reason,
    )
    outcome = RunOutcome(
        run_id=step.run_id,
        state=ending.state,
        step_number=step.step_number,
        result=ending.result,
        reason=reason,
        headers=step.headers,
        ended_at=from_ms(now_ms),
    )
    writes: dict[KvKey, bytes] = {
        keys.run(step.run_id): encode_run(row),
        keys.expiry(now_ms, step.run_id): b"",
    }
    return SettlementEffects(
        enqueues=[*staged.enqueues, *announce(outcome), *_tell_parent(step)],
        kv_writes={**staged.kv_writes, **writes},
        kv_deletes=[*staged.kv_deletes, *_ended_waits(step, basis.signals)],
        kv_expected=basis.expected or None,
        unless_cancelled=basis.unless_cancelled,
    )


def _tell_parent(step: StepJob) -> list[EnqueueRequest]:
    """The job that wakes the run whose child has ended."""
    if step.function is None or step.function.parent is None:
        return []
    return [
        EnqueueRequest(
            step.queue,
            b"",
            priority=step.priority,
            max_attempts=UNBOUNDED,
            headers={
                _headers.RUN_ID: step.function.parent,
                _headers.ENDED_CHILD: step.run_id,
            },
        )
    ]


def _ended_waits(step: StepJob, signals: SignalRows) -> set[str]:
    """Rows of the waits before this step, unless somebody has taken them over."""
    waiter = Waiter(step.run_id, step.job_id)
    keys = keys_of(step.queue)
    return {keys.signal(key) for key in step.waited_for if signals[key] == waiter}


def _dedup_key(run_id: str, step_number: int) -> str:
    return f"run:{run_id}:{step_number}"
