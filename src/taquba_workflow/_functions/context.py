"""`WorkflowContext`: what a workflow's function does durably."""

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
    """A step that is to run if the function fails."""

    place: Place
    """Where it was registered, so that it sorts behind the call before and before the next one."""
    step: StepFunction
    values: dict[str, Any]
    digest: bytes


class Children(Protocol):
    """What starts runs on behalf of another."""

    def check_known(self, workflow: Workflow[..., Any]) -> None:
        """Raise `InvalidArgument` for a workflow that the runtime was not given."""
        ...

    async def start(
        self, workflow: Workflow[..., Any], run_id: str, input: bytes, writes: Mapping[KvKey, bytes]
    ) -> None:
        """Start a run, with entries in the same commit."""
        ...

    async def look(self, run_id: str) -> LiveRun | EndedRun | None:
        """Where a run is."""
        ...


class WorkflowContext:
    """What a workflow's function gets as its first argument.

    Every call has its place in the run's history. Make the same calls whenever the function runs
    again, one after the other; for several at the same time there is `gather`.

    Attributes:
        run_id: The run.
        headers: The headers it was submitted with.
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
        """Internal: what `on_failure` was told."""
        self._turn = turn
        self._recorder = recorder
        self._steps = steps
        self._children = children

    # -- steps ------------------------------------------------------------------------------

    # Whoever returns an awaitable is async: the first overload that fits counts.
    @overload
    async def step(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def step(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def step(
        self, function: Callable[..., Any], /, *args: object, **kwargs: object
    ) -> object:
        """Call a function once, and record what came of it.

            charge = await ctx.step(charge_card, order_id)

        Arguments and result are checked by the function's annotations, and have to be of types
        that pydantic can store. ``async def`` runs on the event loop, a plain function in a thread.
        An exception is retried as `step` in front of the function says; `StepError.permanent` is
        not, and `taquba.RetryAfter` says when. The code of a step learns about itself from
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
        """Like `step`, with other options than the function's own."""
        return await self._step(function, options, args, kwargs)

    async def _step(
        self,
        function: Callable[..., Any],
        options: StepOptions | None,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        await self._turn.enter()
        if options is not None:
            instance(options, StepOptions, "options")
        step = step_function(function, options)
        values, digest = bind(step, args, kwargs)
        return await self._steps.run(step, values, digest)

    # -- waits ------------------------------------------------------------------------------

    async def sleep(self, duration: Duration) -> None:
        """Wait for a time, seconds or `timedelta`, from `now`; it is not lost with the process.

        A run all of whose branches wait holds no worker. A time that has begun to run is not
        changed by another version of the function.
        """
        await self._turn.enter()
        wait_ms = duration_ms(duration, "duration")
        call = await self._turn.call(CallKind.sleep, "sleep")
        entry = call.entry
        if entry is None or entry.state is CallState.waiting:
            due, pending = self._due(call, CallKind.sleep, "sleep", wait_ms)
            await self._turn.until(call, due, pending)
            entry = self._recorder.entry(CallKind.sleep, "sleep", b"", CallState.done)
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
        """Wait for a signal, sent by `WorkflowRuntime.signal`, before or after.

        Where branches go on meanwhile, a signal is taken, and time runs out, when all of them wait.

        Args:
            key: Which signal, 1 to 1024 UTF-8 bytes; one run at a time waits for a key.
            timeout: How long to wait, seconds or `timedelta` from `now`; None waits for ever.
            type: What the signal's payload, as JSON, is to be validated as; it comes as bytes by
                default.

        Returns:
            The signal's payload; None when time ran out.

        Raises:
            SignalTaken: Another run, or another branch, waits for it.
            InvalidArgument: The payload is not what `type` says; the signal is spent.
        """
        await self._turn.enter()
        _values.name(key, "a signal key")
        wait_ms = None if timeout is None else duration_ms(timeout, "timeout")
        call = await self._turn.call(CallKind.signal, key)
        entry = call.entry
        if entry is None or entry.state is CallState.waiting:
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
        due, pending = self._due(call, CallKind.signal, key, wait_ms)
        await turn.gate(call.place)
        if turn.waits_for(key) or key in turn.taken:
            turn.taken.discard(key)
            error = Error("SignalTaken", key)
            return recorder.entry(CallKind.signal, key, b"", CallState.failed, error=error)
        payload = turn.signals.pop(key, None)
        # Whether one was sent before is known where the turn ends, so it has to end first.
        if payload is None and (pending is not None or due is None or due > turn.clock.time_ms()):
            await turn.wait(Wait(call.place, due=due, signal=key, entry=pending))
        value = None if payload is None else await turn.recorded(recorder.pack(payload))
        return recorder.entry(CallKind.signal, key, b"", CallState.done, value=value)

    def _due(
        self, call: Call, kind: CallKind, name: str, wait_ms: int | None
    ) -> tuple[int | None, Entry | None]:
        """When a wait ends, and the entry that says so, unless it is there."""
        if call.entry is not None:
            return call.entry.due, None
        due = None if wait_ms is None else call.branch.now + wait_ms
        return due, self._recorder.entry(kind, name, b"", CallState.waiting, due=due)

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
        """Run several at the same time: calls of this context, or async functions that make some.

            parts = await ctx.gather(*(ctx.step(ship, part) for part in order.parts))

        All of them come to their end; then, if any failed, the error of the first one, in the
        order of the arguments, is raised.

        Returns:
            Their results, in the order of the arguments.
        """
        return await self._turn.gather(awaitables)

    async def child(self, workflow: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Start another workflow as a run of its own, once, and wait for its result.

        It is cancelled with this one.

        Raises:
            ChildFailed: It has failed, or was cancelled.
            InvalidArgument: The arguments do not fit, or the runtime does not know the workflow.
        """
        await self._turn.enter()
        self._children.check_known(workflow)
        input = workflow.input(args, kwargs)
        call = await self._turn.call(CallKind.child, workflow.name, sha256(input).digest())
        entry = call.entry
        if entry is None:
            await self._turn.gate(call.place)
            entry = await self._turn.recorded(self._start_child(call, workflow, input))
        if entry.state is CallState.waiting:
            entry = await self._await_child(call, entry)
        call.branch.now = entry.at
        if entry.error is not None:
            child = child_run_id(self.run_id, call.place)
            raise ChildFailed(child, *entry.error)
        result = await read_result(self._turn, self._recorder, call, entry, workflow.signature)
        return cast("T", result)

    async def _start_child(self, call: Call, workflow: Workflow[..., Any], input: bytes) -> Entry:
        digest = sha256(input).digest()
        entry = self._recorder.entry(CallKind.child, workflow.name, digest, CallState.waiting)
        await self._recorder.flush()
        self._recorder.check_held()
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
            error = Error("lost", "its outcome is forgotten")
        elif run.state is RunState.succeeded and run.result is not None:

            async def is_kept() -> bool:
                return await self._children.look(run_id) == run

            result = await turn.recorded(recorder.unpack(run.result, is_kept))
            if result is None:
                error = Error("lost", "its result is forgotten")
            else:
                value = await turn.recorded(recorder.pack(result))
        else:
            error = Error(run.state.value, run.reason or "")
        ended = recorder.entry(
            CallKind.child,
            entry.name,
            entry.digest,
            CallState.done if error is None else CallState.failed,
            value=value,
            error=error,
        )
        await turn.recorded(recorder.write(call.place, ended))
        return ended

    # -- decisions --------------------------------------------------------------------------

    def patched(self, name: str) -> bool:
        """Whether this run does here what a changed function does.

            if ctx.patched("check stock"):
                await ctx.step(check_stock, order_id)

        False where a run has come past this point before the change, True for all others; the
        same whenever the function runs again.

        Args:
            name: The change, 1 to 1024 UTF-8 bytes.
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
        """Have a step run if the function fails, or its run is cancelled.

            charge = await ctx.step(charge_card, order_id)
            ctx.on_failure(refund, charge)

        Compensations run one after the other, the last one first, recorded and retried like all
        steps. One that fails for good is named in the reason of the run's end; the others run.
        """
        step = step_function(compensation, None)
        values, digest = bind(step, args, kwargs)
        branch = self._turn.branch()
        if self._turn.is_over:
            # What was told so far is what a replay will tell.
            return
        # Branches may come here in any order, so the order is that of the code.
        place = (*branch.place, branch.calls, -1, len(self.compensations))
        self.compensations.append(Compensation(place, step, values, digest))

    # -- what a replay knows ----------------------------------------------------------------

    def now(self) -> datetime:
        """The time, UTC: when the last call of this branch ended, or the run was to begin."""
        return from_ms(self._turn.branch().now)

    def random(self) -> Random:
        """A source of random numbers of this branch, the same in every replay; for no secrets."""
        return self._turn.branch().random(self.run_id)

    def uuid4(self) -> UUID:
        """A UUID that is the same in every replay."""
        return UUID(int=self.random().getrandbits(128), version=4)


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _parse(key: str, kind: type[Any], payload: bytes) -> object:
    try:
        return _adapter(cast("Hashable", kind)).validate_json(payload)
    except ValidationError as error:
        raise InvalidArgument(
            f"the signal {key!r} is not what was waited for: {explain(error)}"
        ) from None
