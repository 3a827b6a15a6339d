"""One turn of a function's run: the function, and its compensations."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from taquba import InvalidArgument, LeaseHandle, ObjectDamaged, Snooze, TaqubaError
from taquba.extending.checks import instance
from taquba.extending.parking import parked, too_new
from taquba.extending.typed import Undecodable
from taquba_workflow._errors import NonDeterminism
from taquba_workflow._functions.definitions import Workflow
from taquba_workflow._functions.history import UnreadableHistory, load_history
from taquba_workflow._functions.phases import Phases, Services
from taquba_workflow._functions.turn import GoesOn
from taquba_workflow._outcomes import Cancel, Fail, Succeed, Suspend
from taquba_workflow._steps import FunctionTurn, StepJob

_log: Final = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0


class FunctionRunner:
    """Runs turns of functions.

    Args:
        workflows: The functions that this program has.
        services: What their turns need.
        max_attempts: Attempts at a turn in a row that may come to nothing before its run fails.
    """

    def __init__(
        self,
        workflows: Iterable[Workflow[..., Any]],
        services: Services,
        *,
        max_attempts: int,
    ) -> None:
        self._workflows = _by_name(workflows)
        self._services = services
        self._max_attempts = max_attempts
        self._going_on: dict[str, GoesOn] = {}
        """Runs whose functions swallow cancellation: each turn would leave one more behind."""

    def check_known(self, workflow: Workflow[..., Any]) -> None:
        """Raise `InvalidArgument` for a workflow that the runtime was not given."""
        instance(workflow, Workflow, "workflow")
        if self._workflows.get(workflow.name) is not workflow:
            raise InvalidArgument(
                f"this runtime does not know {workflow!r}: name it in WorkflowRuntime(workflows=)"
            )

    async def run(
        self, step: StepJob, last_error: str | None, lease: LeaseHandle
    ) -> Suspend | Succeed | Fail | Cancel:
        """Run a turn.

        Raises:
            Snooze: This program cannot continue the run, or the store cannot be used now.
        """
        assert step.function is not None
        workflow = self._workflow_of(step, step.function)
        going_on = self._going_on.get(step.run_id)
        if going_on is not None and not step.function.cancelling:
            raise parked(going_on)
        try:
            history = await load_history(self._services.store, step.queue, step.run_id)
            lost = step.attempts - 1 - history.progress(step.step_number)
            if lost >= self._max_attempts:
                return Fail(f"{lost} consecutive attempts recorded nothing: {last_error}")
            arguments = workflow.arguments(step.payload)
            return await Phases(self._services, workflow, arguments, step, history, lease).run()
        except GoesOn as error:
            self._going_on[step.run_id] = error
            _log.warning("run %r is parked: %s", step.run_id, error)
            raise parked(error) from error
        except NonDeterminism as error:
            _log.warning("%s", error)
            raise parked(error) from error
        except UnreadableHistory as error:
            _log.warning("run %r is parked: %s", step.run_id, error)
            raise parked(error) from error
        except Undecodable as error:
            why = f"its arguments no longer fit workflow {workflow.name!r}: {error}"
            _log.warning("run %r is parked: %s", step.run_id, why)
            raise parked(why) from error
        except ObjectDamaged as error:
            # Of a recorded result: running the step again might do what was done.
            _log.warning("run %r is parked: %s", step.run_id, error)
            raise parked(error) from error
        except Snooze:
            raise
        except TaqubaError as error:
            # Of the store: the function's own come as what it came to.
            if error.permanent:
                raise
            raise Snooze(_RETRY_SECONDS, str(error)) from error

    def _workflow_of(self, step: StepJob, turn: FunctionTurn) -> Workflow[..., Any]:
        workflow = self._workflows.get(turn.name)
        age_ms = self._services.clock.time_ms() - step.submitted_at
        if workflow is None:
            raise parked(f"no workflow {turn.name!r} is known here", age_ms)
        if turn.version > workflow.version:
            raise too_new(turn.version, f"workflow {turn.name!r}", workflow.version, age_ms)
        return workflow


def _by_name(workflows: Iterable[Workflow[..., Any]]) -> dict[str, Workflow[..., Any]]:
    found: dict[str, Workflow[..., Any]] = {}
    for workflow in workflows:
        instance(workflow, Workflow, "each of workflows")
        if found.setdefault(workflow.name, workflow) is not workflow:
            raise InvalidArgument(f"two of the workflows have the name {workflow.name!r}")
        workflow.signature.resolve()
    return found
