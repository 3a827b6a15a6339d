"""`RunHandle`: the submitter's handle on a function's run."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar, cast

from taquba import Duration, ReadableStore
from taquba.extending.typed import Undecodable
from taquba_workflow import _values
from taquba_workflow._errors import RunFailed, RunNotFound
from taquba_workflow._functions.definitions import Workflow
from taquba_workflow._records import RunSpec, RunState, RunStatus
from taquba_workflow._status import read_status

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LONG: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """Options for submitting one run of a function.

    Attributes:
        run_id: Custom id, 1 to 128 characters of ``[A-Za-z0-9_-]``; None makes one. Starting the
            same function with the same id and arguments again returns the existing run.
        headers: Small string pairs that the function and the terminal hook see. Names that start
            with ``workflow.`` are reserved.
        priority: Priority of all turns; unsigned 32-bit, lower first. Default: the queue's.
        run_at: Earliest start, timezone-aware.
    """

    run_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    priority: int | None = None
    run_at: datetime | None = None

    def __post_init__(self) -> None:
        # Its checks are those of a run.
        self.spec(b"")

    def spec(self, input: bytes) -> RunSpec:
        """Internal: the run to submit."""
        return RunSpec(
            input,
            run_id=self.run_id,
            headers=self.headers,
            priority=self.priority,
            run_at=self.run_at,
        )


class Runs(Protocol):
    """The runtime, as a handle uses it."""

    async def status(self, run_id: str) -> RunStatus | None:
        """The status of a run."""
        ...

    async def wait_for_completion(self, run_id: str, timeout: Duration) -> RunStatus | None:
        """Wait until a run has ended."""
        ...

    async def cancel(self, run_id: str) -> bool:
        """End a run as cancelled."""
        ...


class RunHandle(Generic[T_co]):
    """A run of a function. Await it, or `result`, for the function's result.

    Attributes:
        run_id: The run's id; `WorkflowRuntime.handle` makes a handle from it, in any later process.
        new: False if the run had been submitted before.
    """

    __slots__ = ("_runs", "_workflow", "new", "run_id")

    def __init__(
        self, runs: Runs, workflow: Workflow[..., T_co], run_id: str, *, new: bool
    ) -> None:
        """Internal: `WorkflowRuntime.start` and `WorkflowRuntime.handle` make these."""
        self._runs = runs
        self._workflow = workflow
        self.run_id = run_id
        self.new = new

    def __repr__(self) -> str:
        return f"RunHandle({self._workflow.name!r}, run_id={self.run_id!r}, new={self.new})"

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.result().__await__()

    async def result(self, timeout: Duration | None = None) -> T_co:
        """Wait until the function has returned; does not poll.

        Args:
            timeout: Seconds, on the runtime's clock; None waits without a limit.

        Raises:
            RunFailed: The run has failed, or was cancelled.
            TimeoutError: It has not ended in time; it continues.
            RunNotFound: There is no such run, or it has been removed.
        """
        while True:
            status = await self._runs.wait_for_completion(
                self.run_id, _LONG if timeout is None else timeout
            )
            if status is None:
                raise RunNotFound(self.run_id)
            if status.state.ended:
                return _result_of(self._workflow, status)
            if timeout is not None:
                raise TimeoutError(f"run {self.run_id!r} has not ended within {timeout}")

    async def fetch_result(self) -> T_co | None:
        """Return the result; None while the run has not ended, or if it has been removed.

        Raises:
            RunFailed: The run has failed, or was cancelled.
        """
        status = await self.status()
        return (
            None if status is None or not status.state.ended else _result_of(self._workflow, status)
        )

    async def status(self) -> RunStatus | None:
        """Return the status of the run; None if it has been removed."""
        return await self._runs.status(self.run_id)

    async def cancel(self) -> bool:
        """End the run as cancelled, after its compensations; see `WorkflowRuntime.cancel`."""
        return await self._runs.cancel(self.run_id)


async def fetch_run_result(
    source: ReadableStore,
    workflow: Workflow[P, T],
    run_id: str,
    *,
    queue_name: str = "workflow",
) -> T | None:
    """Return the result of a function's run, through any handle or a `taquba.QueueReader`.

    Returns:
        The result; None while the run has not ended, and once it has been removed.

    Raises:
        RunFailed: The run has failed, or was cancelled.
    """
    _values.run_id(run_id)
    status = await read_status(source, queue_name, run_id)
    if status is None or not status.state.ended:
        return None
    return _result_of(workflow, status)


def _result_of(workflow: Workflow[..., T], status: RunStatus) -> T:
    if status.state is not RunState.SUCCEEDED:
        raise RunFailed(status.run_id, status.state.value, status.reason or "")
    if status.result is None:
        raise RunNotFound(status.run_id)
    try:
        return cast("T", workflow.signature.unpack_result(status.result))
    except Undecodable as error:
        why = f"its result is not that of workflow {workflow.name!r}: {error}"
        raise RunFailed(status.run_id, status.state.value, why) from error
