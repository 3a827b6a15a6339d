"""Outputs of steps, kept until they are settled, so that a step that was finished is not run again.

Between a step's return and the commit of its settlement its process may die. With replay the
output is made durable first, and the next attempt settles with it instead of running the step.
"""

from __future__ import annotations

import logging
from datetime import datetime
from enum import IntEnum
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgpack

from taquba import Duration, EnqueueRequest, SettlementEffects, TaqubaError
from taquba.extending import UNREADABLE, describe
from taquba.extending.checks import duration_ms
from taquba.extending.times import from_ms, later, to_ms
from taquba_workflow._keys import keys_of
from taquba_workflow._outcomes import (
    After,
    Cancel,
    Continue,
    Fail,
    Immediate,
    OnSignal,
    StepOutcome,
    Succeed,
    Trigger,
)
from taquba_workflow._steps import StepJob

_log: Final = logging.getLogger(__name__)


class Output(NamedTuple):
    """What a step came to."""

    outcome: StepOutcome
    staged: SettlementEffects
    at: datetime
    """When: delays count from here, so an output that is replayed has only the rest to wait."""
    attempt: int
    """The attempt that came to it."""


def replay_key(step: StepJob) -> str:
    """Key of a step's output: another payload is another output."""
    digest = sha256(step.payload).hexdigest()
    return f"{keys_of(step.queue).memos(step.run_id)}{step.step_number}/r/{digest}"


def encode_output(output: Output) -> bytes:
    staged = output.staged
    packed: bytes = msgpack.packb(
        (
            to_ms(output.at),
            output.attempt,
            _encode_outcome(output.outcome),
            [_encode_request(request, output.at) for request in staged.enqueues],
            list(staged.kv_writes.items()),
            list(staged.kv_deletes),
        )
    )
    return packed


def decode_output(packed: bytes) -> Output | None:
    """The output that was kept; None where that cannot be read, so that the step is run again."""
    try:
        at, attempt, outcome, enqueues, kv_writes, kv_deletes = msgpack.unpackb(packed)
        return Output(
            _decode_outcome(*outcome),
            SettlementEffects(
                enqueues=[_decode_request(*fields) for fields in enqueues],
                kv_writes=dict(kv_writes),
                kv_deletes=kv_deletes,
            ),
            from_ms(at),
            int(attempt),
        )
    except (*UNREADABLE, TaqubaError) as error:
        _log.warning("the output of a step that was kept cannot be read: %s", describe(error))
        return None


class _Kind(IntEnum):
    GO_ON = 0
    SUCCEED = 1
    FAIL = 2
    CANCEL = 3


def _encode_outcome(outcome: StepOutcome) -> tuple[object, ...]:
    match outcome:
        case Continue(payload, when):
            return (_Kind.GO_ON, payload, _encode_trigger(when))
        case Succeed(result):
            return (_Kind.SUCCEED, result)
        case Fail(reason):
            return (_Kind.FAIL, reason)
        case Cancel(reason):
            return (_Kind.CANCEL, reason)


def _decode_outcome(kind: int, value: Any, trigger: Any = None) -> StepOutcome:
    match kind:
        case _Kind.GO_ON:
            return Continue(value, _decode_trigger(*trigger))
        case _Kind.SUCCEED:
            return Succeed(value)
        case _Kind.FAIL:
            return Fail(value)
        case _Kind.CANCEL:
            return Cancel(value)
        case _:
            raise ValueError(f"{kind!r} is not the kind of an outcome")


def _encode_trigger(trigger: Trigger) -> tuple[object, ...]:
    match trigger:
        case Immediate():
            return ()
        case After(delay):
            return (None, _seconds(delay))
        case OnSignal(key, timeout):
            return (key, None if timeout is None else _seconds(timeout))


def _decode_trigger(*fields: Any) -> Trigger:
    if not fields:
        return Immediate()
    key, seconds = fields
    return After(seconds) if key is None else OnSignal(key, seconds)


def _encode_request(request: EnqueueRequest, at: datetime) -> tuple[object, ...]:
    run_at = request.run_at
    if request.delay is not None:
        run_at = later(at, request.delay, "delay")
    return (
        request.queue,
        request.payload,
        None if run_at is None else to_ms(run_at),
        request.priority,
        request.max_attempts,
        request.dedup_key,
        None if request.headers is None else dict(request.headers),
        request.job_id,
        None if request.kv_writes is None else list(request.kv_writes.items()),
    )


def _decode_request(
    queue: str,
    payload: bytes,
    run_at: int | None,
    priority: int | None,
    max_attempts: int | None,
    dedup_key: str | None,
    headers: dict[str, str] | None,
    job_id: str | None,
    kv_writes: Any,
) -> EnqueueRequest:
    return EnqueueRequest(
        queue,
        payload,
        run_at=None if run_at is None else from_ms(run_at),
        priority=priority,
        max_attempts=max_attempts,
        dedup_key=dedup_key,
        headers=headers,
        job_id=job_id,
        kv_writes=None if kv_writes is None else dict(kv_writes),
    )


def _seconds(delay: Duration) -> float:
    return duration_ms(delay, "delay") / 1000
