"""`WorkflowContext`: the durable calls of a workflow's function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from random import Random
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from taquba import Duration, InvalidArgument, KvKey
from taquba.extending.checks import duration_ms, instance
from taquba.extending.times import from_ms
from taquba.extending.typed import explain
from taquba_workflow import _values
from taquba_workflow._errors import ChildFailed, SignalTaken
from taquba_workflow._functions.definitions import (
    StepFunction,
    StepOptions,
    Workflow,
    step_function,
)
from taquba_workflow._functions.history import (
    CallKind,
    CallState,
    Entry,
    Error,
    Place,
    child_run_id,
    encode_entry,
)
from taquba_workflow._functions.recording import Recorder
from taquba_workflow._functions.stepping import Steps, bind, read_result
from taquba_workflow._functions.turn import Call, Turn, Wait
from taquba_workflow._records import EndedRun, LiveRun, RunState

P = ParamSpec("P")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")


class Compensation(NamedTuple):
    """A step that runs if the function fails."""

    place: Place
    """Where it was registered, so that it sorts behind the call before and before the next one."""
    step: StepFunction
    values: dict[str, Any]
    digest: bytes


class Children(Protocol):
    """Starts runs on behalf of another run."""

    def check_known(self, workflow: Workflow[..., Any]) -> None:
        """Raise `InvalidArgument` for a workflow that the runtime was not given."""
        ...

    async def start(
        self, workflow: Workflow[..., Any], run_id: str, input: bytes, writes: Mapping[KvKey, bytes]
    ) -> None:
        """Start a run, with entries in the same commit."""
        ...

    async def look(self, run_id: str) -> LiveRun | EndedRun | None:
        """The status of a run."""
        ...


class WorkflowContext:
    """The first argument of a workflow's function.

    Every call has its place in the run's history. The function must make the same calls whenever it
    runs again, one after the other; `gather` makes several at the same time.

    Attributes:
        run_id: The run.
        headers: The headers of the submission.
    """

    def __init__(
        self,
        turn: Turn,
        recorder: Recorder,
        steps: Steps,
        children: Children,
        headers: Mapping[str, str],
    ) -> None:
        """Internal: the runtime makes these."""
        self.run_id = turn.run_id
        self.headers = headers
        self.compensations: list[Compensation] = []
        """Internal: the registered compensations."""
        self._turn = turn
        self._recorder = recorder
        self._steps = steps
        self._children = children

    # -- steps ------------------------------------------------------------------------------

    # A function that returns an awaitable is async: the first overload that fits counts.
    @overload
    async def step(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def step(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def step(
        self, function: Callable[..., Any], /, *args: object, **kwargs: object
    ) -> object:
        """Call a function once, and record its result or failure.

            charge = await ctx.step(charge_card, order_id)

        Arguments and result are checked against the function's annotations, and must have types
        that pydantic can store. ``async def`` runs on the event loop, a plain function in a thread.
        An exception is retried as the function's decorator `step` says; `StepError.permanent` is
        not retried, and `taquba.RetryAfter` sets the delay. The code of a step can call
        `current_step`.

        It runs again only if its process dies after it ran and before the result was recorded.

        Raises:
            StepFailed: It has failed for good.
            InvalidArgument: The arguments do not fit.
        """
        return await self._step(function, None, args, kwargs)

    @overload
    async def step_with(
        self,
        options: StepOptions,
        function: Callable[P, Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...
    @overload
    async def step_with(
        self, options: StepOptions, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    async def step_with(
        self, options: StepOptions, function: Callable[..., Any], /, *args: object, **kwargs: object
    ) -> object:
        """Like `step`, with options that replace the function's own."""
        return await self._step(function, options, args, kwargs)

    async def _step(
        self,
        function: Callable[..., Any],
        options: StepOptions | None,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        def check() -> tuple[StepFunction, dict[str, Any], bytes]:
            if options is not None:
                instance(options, StepOptions, "options")
            step = step_function(function, options)
            return (step, *bind(step, args, kwargs))

        return await self._steps.run(*await self._turn.begin(check))

    # -- waits ------------------------------------------------------------------------------

    async def sleep(self, duration: Duration) -> None:
        """Wait for a time, seconds or `timedelta`, counted from `now`; it survives the process.

        A run whose branches all wait occupies no worker. A changed function does not change a time
        that has begun to run.
        """
        wait_ms = await self._turn.begin(lambda: duration_ms(duration, "duration"))
        call = await self._turn.call(CallKind.SLEEP, "sleep")
        entry = call.entry
        if entry is None or entry.state is CallState.WAITING:
            due, pending = self._due(call, CallKind.SLEEP, "sleep", wait_ms)
            await self._turn.until(call, due, pending)
            entry = self._recorder.entry(CallKind.SLEEP, "sleep", b"", CallState.DONE)
            await self._turn.recorded(self._recorder.write(call.place, entry))
        call.branch.now = entry.at

    @overload
    async def wait_signal(self, key: str) -> bytes: ...
    @overload
    async def wait_signal(self, key: str, timeout: Duration | None) -> bytes | None: ...
    @overload
    async def wait_signal(self, key: str, *, type: type[T]) -> T: ...
    @overload
    async def wait_signal(self, key: str, timeout: Duration | None, type: type[T]) -> T | None: ...
    async def wait_signal(
        self, key: str, timeout: Duration | None = None, type: type[Any] | None = None
    ) -> object:
        """Wait for a signal, which `WorkflowRuntime.signal` sends before or after this call.

        If other branches are active, a signal is taken, or the timeout takes effect, when all of
        them wait.

        Args:
            key: The key of the signal, 1 to 1024 UTF-8 bytes; only one run at a time waits for a
                key.
            timeout: How long to wait, seconds or `timedelta` from `now`; None waits forever.
            type: The type against which the signal's payload, as JSON, is validated; by default the
                payload is returned as bytes.

        Returns:
            The signal's payload; None after the timeout.

        Raises:
            SignalTaken: Another run, or another branch, waits for it.
            InvalidArgument: The payload does not fit `type`; the signal is used up.
        """

        def check() -> int | None:
            _values.name(key, "a signal key")
            return None if timeout is None else duration_ms(timeout, "timeout")

        wait_ms = await self._turn.begin(check)
        call = await self._turn.call(CallKind.SIGNAL, key)
        entry = call.entry
        if entry is None or entry.state is CallState.WAITING:
            entry = await self._await_signal(call, key, wait_ms)
            await self._turn.recorded(self._recorder.write(call.place, entry))
        elif entry.value is not None and entry.turn == self._recorder.turn:
            # An attempt before this one took the signal that the turn's job carries.
            self._turn.signals.pop(key, None)
        call.branch.now = entry.at
        if entry.error is not None:
            raise SignalTaken(key)
        if entry.value is None:
            return None
        payload = await self._turn.recorded(self._recorder.unpack(entry.value))
        return payload if type is None or payload is None else _parse(key, type, payload)

    async def _await_signal(self, call: Call, key: str, wait_ms: int | None) -> Entry:
        turn, recorder = self._turn, self._recorder
        due, pending = self._due(call, CallKind.SIGNAL, key, wait_ms)
        await turn.gate(call.place)
        if turn.waits_for(key) or key in turn.taken:
            turn.taken.discard(key)
            error = Error("SignalTaken", key)
            return recorder.entry(CallKind.SIGNAL, key, b"", CallState.FAILED, error=error)
        payload = turn.signals.pop(key, None)
        # Only the end of the turn shows whether one was sent before, so the turn must end first.
        if payload is None and (pending is not None or due is None or due > turn.clock.time_ms()):
            await turn.wait(Wait(call.place, due=due, signal=key, entry=pending))
        value = None if payload is None else await turn.recorded(recorder.pack(payload))
        return recorder.entry(CallKind.SIGNAL, key, b"", CallState.DONE, value=value)

    def _due(
        self, call: Call, kind: CallKind, name: str, wait_ms: int | None
    ) -> tuple[int | None, Entry | None]:
        """When a wait ends, and the entry that records it, unless it exists."""
        if call.entry is not None:
            return call.entry.due, None
        due = None if wait_ms is None else call.branch.now + wait_ms
        return due, self._recorder.entry(kind, name, b"", CallState.WAITING, due=due)

    # -- branches and children --------------------------------------------------------------

    @overload
    async def gather(self, first: Awaitable[T1], second: Awaitable[T2], /) -> tuple[T1, T2]: ...
    @overload
    async def gather(
        self, first: Awaitable[T1], second: Awaitable[T2], third: Awaitable[T3], /
    ) -> tuple[T1, T2, T3]: ...
    @overload
    async def gather(
        self,
        first: Awaitable[T1],
        second: Awaitable[T2],
        third: Awaitable[T3],
        fourth: Awaitable[T4],
        /,
    ) -> tuple[T1, T2, T3, T4]: ...
    @overload
    async def gather(self, *awaitables: Awaitable[T]) -> tuple[T, ...]: ...
    async def gather(self, *awaitables: Awaitable[Any]) -> tuple[Any, ...]:
        """Run calls of this context, or async functions that make some, at the same time.

            parts = await ctx.gather(*(ctx.step(ship, part) for part in order.parts))

        All of them run to their end; then, if any failed, the error of the first one, in the order
        of the arguments, is raised.

        Returns:
            Their results, in the order of the arguments.
        """
        return await self._turn.gather(awaitables)

    async def child(self, workflow: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Start another workflow once, as a separate run, and wait for its result.

        It is cancelled with this one.

        Raises:
            ChildFailed: It has failed, or was cancelled.
            InvalidArgument: The arguments do not fit, or the runtime does not know the workflow.
        """

        def check() -> bytes:
            self._children.check_known(workflow)
            return workflow.input(args, kwargs)

        input = await self._turn.begin(check)
        call = await self._turn.call(CallKind.CHILD, workflow.name, sha256(input).digest())
        entry = call.entry
        if entry is None:
            await self._turn.gate(call.place)
            entry = await self._turn.recorded(self._start_child(call, workflow, input))
        if entry.state is CallState.WAITING:
            entry = await self._await_child(call, entry)
        call.branch.now = entry.at
        if entry.error is not None:
            child = child_run_id(self.run_id, call.place)
            raise ChildFailed(child, *entry.error)
        result = await read_result(self._turn, self._recorder, call, entry, workflow.signature)
        return cast("T", result)

    async def _start_child(self, call: Call, workflow: Workflow[..., Any], input: bytes) -> Entry:
        digest = sha256(input).digest()
        entry = self._recorder.entry(CallKind.CHILD, workflow.name, digest, CallState.WAITING)
        await self._recorder.flush()
        await self._children.start(
            workflow,
            child_run_id(self.run_id, call.place),
            input,
            {self._recorder.key(call.place): encode_entry(entry)},
        )
        return entry

    async def _await_child(self, call: Call, entry: Entry) -> Entry:
        turn, recorder = self._turn, self._recorder
        run_id = child_run_id(self.run_id, call.place)
        run = await turn.recorded(self._children.look(run_id))
        if turn.closed or isinstance(run, LiveRun):
            await turn.wait(Wait(call.place, child=run_id))
            raise AssertionError("a child does not end within a turn that waits for it")
        value, error = None, None
        if run is None:
            error = Error("lost", "its outcome has been removed")
        elif run.state is RunState.SUCCEEDED and run.result is not None:

            async def is_kept() -> bool:
                return await self._children.look(run_id) == run

            result = await turn.recorded(recorder.unpack(run.result, is_kept))
            if result is None:
                error = Error("lost", "its result has been removed")
            else:
                value = await turn.recorded(recorder.pack(result))
        else:
            error = Error(run.state.value, run.reason or "")
        ended = recorder.entry(
            CallKind.CHILD,
            entry.name,
            entry.digest,
            CallState.DONE if error is None else CallState.FAILED,
            value=value,
            error=error,
        )
        await turn.recorded(recorder.write(call.place, ended))
        return ended

    # -- decisions --------------------------------------------------------------------------

    def patched(self, name: str) -> bool:
        """Return whether this run uses a change of the function at this point.

            if ctx.patched("check stock"):
                await ctx.step(check_stock, order_id)

        False for a run that passed this point before the change, True for all others; the same
        whenever the function runs again.

        Args:
            name: The name of the change, 1 to 1024 UTF-8 bytes.
        """
        _values.name(name, "the name of a patch")
        branch = self._turn.branch()
        decided = self._turn.history.is_patched(branch.place, branch.calls, name)
        if decided is None and self._turn.is_over:
            return True
        if decided is None:
            self._recorder.note_patch((*branch.place, branch.calls), name)
            return True
        return decided

    def on_failure(
        self, compensation: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Register a step that runs if the function fails, or if its run is cancelled.

            charge = await ctx.step(charge_card, order_id)
            ctx.on_failure(refund, charge)

        Compensations run one after the other, the last one first, recorded and retried like all
        steps. If one fails for good, the reason of the run's end names it; the others still run.
        """
        step = step_function(compensation, None)
        values, digest = bind(step, args, kwargs)
        branch = self._turn.branch()
        if self._turn.is_over:
            # A replay will register the same compensations.
            return
        # Branches may arrive here in any order, so the order of the code is used.
        place = (*branch.place, branch.calls, -1, len(self.compensations))
        self.compensations.append(Compensation(place, step, values, digest))

    # -- what a replay knows ----------------------------------------------------------------

    def now(self) -> datetime:
        """Return the time, UTC: of the end of this branch's last call, or of the run's start."""
        return from_ms(self._turn.branch().now)

    def random(self) -> Random:
        """Return a source of random numbers, the same in every replay; not for secrets."""
        return self._turn.branch().random(self.run_id)

    def uuid4(self) -> UUID:
        """Return a UUID that is the same in every replay."""
        return UUID(int=self.random().getrandbits(128), version=4)


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _parse(key: str, kind: type[Any], payload: bytes) -> object:
    try:
        return _adapter(cast("Hashable", kind)).validate_json(payload)
    except ValidationError as error:
        raise InvalidArgument(
            f"the payload of signal {key!r} does not fit its type: {explain(error)}"
        ) from None
