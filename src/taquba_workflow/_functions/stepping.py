"""Steps: functions that run once, if possible, and whose results are recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from taquba import CancelToken, PermanentFailure, RetryAfter
from taquba.extending import (
    PlainCall,
    awaited,
    describe,
    legible,
    passes_through,
)
from taquba.extending.typed import Arguments, Signature, Undecodable
from taquba_workflow._errors import MisplacedCall, StepError, StepFailed
from taquba_workflow._functions.definitions import StepFunction
from taquba_workflow._functions.history import CallKind, CallState, Entry, Error, call_name
from taquba_workflow._functions.recording import Recorder
from taquba_workflow._functions.turn import Call, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """Information for the code of a step about itself; see `current_step`.

    Attributes:
        run_id: The run.
        name: The step's name.
        attempt: Number of the attempt, from 1.
        idempotency_key: A text that is the same in every attempt of this step of this run, and
            different for every other: pass it to services that accept one, because an attempt whose
            process died before its result was recorded is made again.
        cancel_token: Fires when the run is asked to cancel, which waits for its steps to end.
    """

    run_id: str
    name: str
    attempt: int
    idempotency_key: str
    cancel_token: CancelToken


_current: ContextVar[StepInfo] = ContextVar("taquba_workflow_step")


def current_step() -> StepInfo:
    """Return the running step, for its code, even if that runs in a thread.

    Raises:
        MisplacedCall: No step runs here.
    """
    info = _current.get(None)
    if info is None:
        raise MisplacedCall("as if in a step, and none runs here")
    return info


class Steps:
    """Calls functions as steps of a turn.

    Args:
        turn: The turn.
        recorder: Writes its history.
        threads: Bounds the plain functions that run at the same time.
        cancel_token: That of the run.
    """

    def __init__(
        self,
        turn: Turn,
        recorder: Recorder,
        threads: anyio.CapacityLimiter,
        cancel_token: CancelToken,
    ) -> None:
        self._turn = turn
        self._recorder = recorder
        self._threads = threads
        self._cancel_token = cancel_token

    async def run(self, step: StepFunction, values: dict[str, Any], digest: bytes) -> object:
        """The result of a step: the recorded one, or that of running it now."""
        call = await self._turn.call(CallKind.STEP, step.name, digest)
        entry = call.entry
        while entry is None or entry.state is CallState.WAITING:
            if entry is not None:
                await self._turn.until(call, entry.due)
            await self._turn.gate(call.place)
            entry = await self._attempt(step, values, digest, call, entry)
            await self._turn.recorded(self._recorder.write(call.place, entry))
        call.branch.now = entry.at
        if entry.error is not None:
            raise StepFailed(step.name, *entry.error)
        return await read_result(self._turn, self._recorder, call, entry, step.signature)

    async def _attempt(
        self,
        step: StepFunction,
        values: dict[str, Any],
        digest: bytes,
        call: Call,
        before: Entry | None,
    ) -> Entry:
        """Run a step once; what came of it, as an entry that is not written yet."""
        failures = 0 if before is None else before.failures
        info = StepInfo(
            run_id=self._turn.run_id,
            name=step.name,
            attempt=failures + 1,
            idempotency_key=f"{self._turn.run_id}/{call_name(call.place)}",
            cancel_token=self._cancel_token,
        )
        new = partial(self._recorder.entry, CallKind.STEP, step.name, digest)
        try:
            result = await self._call(step, step.signature.call(values), info)
            packed = step.signature.pack_result(result)
        except BaseException as raised:
            error = legible(raised)
            if passes_through(error):
                raise
            failures += 1
            said = Error(type(error).__name__, describe(error, bare=(type(error),)))
            if failures >= step.options.max_attempts or _is_permanent(error):
                return new(CallState.FAILED, failures=failures, error=said)
            wait_ms = step.options.wait_ms(failures)
            if isinstance(error, RetryAfter):
                wait_ms = error.delay_ms
            due = self._turn.clock.time_ms() + wait_ms
            return new(CallState.WAITING, failures=failures, due=due, error=said)
        value = await self._turn.recorded(self._recorder.pack(packed))
        return new(CallState.DONE, failures=failures, value=value)

    async def _call(self, step: StepFunction, arguments: Arguments, info: StepInfo) -> object:
        with self._turn.stepping():
            token = _current.set(info)
            try:
                work: Callable[[], object] = partial(
                    step.function, *arguments.args, **arguments.kwargs
                )
                if step.is_async:
                    return await awaited(work())
                call = PlainCall(self._turn.clock)
                return await awaited(await call.in_thread(self._threads, work))
            finally:
                _current.reset(token)


def bind(
    step: StepFunction, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[dict[str, Any], bytes]:
    """The arguments of a step by name, and what tells them from others."""
    values = step.signature.bind(args, kwargs)
    return values, step.signature.fingerprint(values)


async def read_result(
    turn: Turn, recorder: Recorder, call: Call, entry: Entry, signature: Signature
) -> object:
    """What is recorded of a call that succeeded; the same when it is made and when replayed."""
    assert entry.value is not None
    data = await turn.recorded(recorder.unpack(entry.value))
    if data is None:
        raise turn.changed(call.place, "a call with a result", "one whose result is gone")
    try:
        return signature.unpack_result(data)
    except ValueError as error:
        raise turn.changed(
            call.place, f"{entry.kind} {entry.name!r} with another result", str(error)
        ) from None


def _is_permanent(error: BaseException) -> bool:
    if isinstance(error, Undecodable):
        return True
    return isinstance(error, (StepError, PermanentFailure)) and bool(error.permanent)
