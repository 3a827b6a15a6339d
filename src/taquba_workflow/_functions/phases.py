"""What a turn comes to: the function, and, where it failed or is cancelled, its compensations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio

from taquba import CancelToken, Clock, KvKey, LeaseHandle, Snooze, Store
from taquba.extending import describe as describe_error
from taquba.extending.times import from_ms
from taquba.extending.typed import Undecodable
from taquba_workflow._children import mark_key
from taquba_workflow._errors import ChildFailed, NonDeterminism, StepFailed
from taquba_workflow._functions.context import Compensation, WorkflowContext
from taquba_workflow._functions.definitions import Workflow
from taquba_workflow._functions.history import (
    BODY,
    COMPENSATIONS,
    CallKind,
    History,
    Place,
    describe,
    encode_entry,
)
from taquba_workflow._functions.recording import Recorder
from taquba_workflow._functions.stepping import Steps
from taquba_workflow._functions.turn import (
    GoesOn,
    Raised,
    Returned,
    RunningTurns,
    Suspended,
    Turn,
)
from taquba_workflow._memo import Values
from taquba_workflow._outcomes import Cancel, Fail, Succeed, Suspend
from taquba_workflow._records import EndedRun, LiveRun
from taquba_workflow._status import read_run
from taquba_workflow._steps import StepJob

_SAY_ALL: Final = (StepFailed, ChildFailed, Undecodable)
"""Errors whose message says it all."""
_SOON_SECONDS: Final = 0.1


class StartChild(Protocol):
    """Starts a run on behalf of another, with entries in the same commit."""

    async def __call__(
        self,
        workflow: Workflow[..., Any],
        run_id: str,
        input: bytes,
        *,
        parent: StepJob,
        writes: Mapping[KvKey, bytes],
    ) -> None:
        """Start it, unless it was."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What turns need from the runtime.

    Attributes:
        store: An open handle on the store.
        clock: Where time comes from.
        threads: Bounds the plain functions that run at the same time.
        check_known: Raises `InvalidArgument` for a workflow that the runtime was not given.
        start: Starts a child.
        cancel: Cancels a run.
        turns: The turns that run now.
    """

    store: Store
    clock: Clock
    threads: anyio.CapacityLimiter
    check_known: Callable[[Workflow[..., Any]], None]
    start: StartChild
    cancel: Callable[[str], Awaitable[bool]]
    turns: RunningTurns


class Phases:
    """A turn of a run: first the function, then what its failure or a cancellation asks for."""

    def __init__(
        self,
        services: Services,
        workflow: Workflow[..., Any],
        arguments: dict[str, Any],
        step: StepJob,
        history: History,
        lease: LeaseHandle,
    ) -> None:
        assert step.function is not None
        self._services = services
        self._workflow = workflow
        self._call = workflow.signature.call(arguments)
        self._step = step
        self._function = step.function
        self._history = history
        self._token = lease.cancel_token
        values = Values(services.store, step.queue)
        self._looked = False
        """Whether the turn has looked at a child."""
        self._mark: bytes | None = None
        """The mark of the ends of its children before that."""
        self._recorder = Recorder(values, step, lease, services.clock)

    async def run(self) -> Suspend | Succeed | Fail | Cancel:
        turn = self._turn(
            BODY, token=self._token, closed=self._function.cancelling or self._token.cancelled
        )
        steps = Steps(turn, self._recorder, self._services.threads, self._token)
        ctx = WorkflowContext(turn, self._recorder, steps, self, self._step.headers)
        args, kwargs = self._call
        came_to = await self._services.turns.run(
            turn, lambda: self._workflow.function(ctx, *args, **kwargs)
        )
        self._history.check_complete(BODY)
        if turn.left_behind and isinstance(came_to, Suspended) and not turn.closed:
            raise GoesOn
        if not turn.closed:
            if turn.pausing and turn.signals and isinstance(came_to, Suspended):
                # The job brings them again.
                raise Snooze(_SOON_SECONDS, "the program stops")
            self._check_signals(turn)
            if isinstance(came_to, Suspended):
                return self._suspend(came_to, turn, cancelling=False)
            if isinstance(came_to, Returned):
                try:
                    return Succeed(self._workflow.signature.pack_result(came_to.value))
                except Undecodable as error:
                    came_to = Raised(error)
        elif isinstance(came_to, Suspended):
            for wait in came_to.waits:
                if wait.child is not None:
                    await self._services.cancel(wait.child)
        return await self._compensate(
            ctx.compensations,
            None if turn.closed or not isinstance(came_to, Raised) else came_to.error,
        )

    async def _compensate(
        self, compensations: list[Compensation], error: BaseException | None
    ) -> Suspend | Fail | Cancel:
        """Undo what the function did, because of an error, or of a request to cancel."""
        await self._recorder.flush()
        turn = self._turn(COMPENSATIONS, token=None, closed=False)
        steps = Steps(turn, self._recorder, self._services.threads, CancelToken())
        problems: list[str] = []

        async def undo() -> None:
            for todo in sorted(compensations, key=lambda todo: todo.place, reverse=True):
                await turn.enter()
                try:
                    await steps.run(todo.step, todo.values, todo.digest)
                except StepFailed as problem:
                    problems.append(f"compensation {problem}")

        came_to = await self._services.turns.run(turn, undo)
        if isinstance(came_to, Suspended):
            return self._suspend(came_to, turn, cancelling=error is None)
        if isinstance(came_to, Raised):
            raise came_to.error
        self._history.check_complete(COMPENSATIONS)
        why = "cancelled on request" if error is None else describe_error(error, bare=_SAY_ALL)
        reason = "; ".join([why, *problems])
        return Cancel(reason) if error is None else Fail(reason)

    def _turn(self, root: Place, *, token: CancelToken | None, closed: bool) -> Turn:
        return Turn(
            self._step.run_id,
            self._history,
            self._services.clock,
            root,
            now=self._function.started_at,
            signals=dict(self._function.signals),
            taken=set(self._function.taken),
            token=token,
            closed=closed,
        )

    def _check_signals(self, turn: Turn) -> None:
        """The signals that ended waits were for waits of this function."""
        for key in turn.signals:
            expected = describe(CallKind.SIGNAL, key, b"")
            raise NonDeterminism(self._step.run_id, "the last", expected, "none")

    def _suspend(self, suspended: Suspended, turn: Turn, *, cancelling: bool) -> Suspend:
        waits = suspended.waits
        due = [wait.due for wait in waits if wait.due is not None]
        entries: dict[KvKey, bytes] = {
            self._recorder.key(wait.place): encode_entry(wait.entry)
            for wait in waits
            if wait.entry is not None
        }
        return Suspend(
            until=from_ms(min(due)) if due else None,
            at_once=turn.pausing,
            signals=tuple(wait.signal for wait in waits if wait.signal is not None),
            children=tuple(wait.child for wait in waits if wait.child is not None),
            mark=self._mark,
            entries={**self._recorder.unwritten(), **entries},
            cancelling=cancelling,
        )

    # -- children ---------------------------------------------------------------------------

    def check_known(self, workflow: Workflow[..., Any]) -> None:
        """Refuse to start a child that nobody here can run."""
        self._services.check_known(workflow)

    async def start(
        self, workflow: Workflow[..., Any], run_id: str, input: bytes, writes: Mapping[KvKey, bytes]
    ) -> None:
        """Start a child of this run."""
        await self._services.start(workflow, run_id, input, parent=self._step, writes=writes)

    async def look(self, run_id: str) -> LiveRun | EndedRun | None:
        """Where a child is."""
        store, queue_name = self._services.store, self._step.queue
        if not self._looked:
            mark = await store.kv_get(mark_key(queue_name, self._step.run_id))
            if not self._looked:
                # Of several branches the first one counts: others may have looked since.
                self._mark, self._looked = mark, True
        # What is read of its end is written down as what it came to.
        return await read_run(store, queue_name, run_id, durable=True)
