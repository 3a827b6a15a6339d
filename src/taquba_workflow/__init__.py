"""taquba_workflow: durable multi-step runs on a taquba queue, one atomic commit per step.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _runtime      `WorkflowRuntime`: submits, controls and runs the runs of one workflow queue
    _functions    workflows as functions, on top of runs and their steps
    _handler      the handler of a workflow queue: finds out the kind of a job
    _kinds        the kinds of jobs that a workflow has: how each is performed and concluded
    _cancelling   requests to cancel runs whose steps are faster than the request
    _children     runs that belong to another: their end wakes it
    _status       the status of a run, read from its row and its job
    _signals      signals: rows in both directions, each replaced only by code that has read it
    _transitions  every state change of a run, as a pure function of step, outcome and time
    _replay       outputs of steps, kept until they are settled
    _steps        a step: the job that carries it, and the view of its runner
    _memo         values that steps remember beyond the end of an attempt
    _retention    removes runs that ended long enough ago, with everything that their steps remember
    _webhooks     ends of runs as webhooks, through taquba_webhooks
    _termination  the end of a run, as its hook sees it: a job of its own
    _effects      effects that a step or a terminal hook stages, applied with its settlement
    _headers      names of the headers that the runtime puts on its jobs, beside the caller's
    _outcomes     the results of a step: how its run continues, or how it ends
    _records      the rows of runs, and the views that callers see
    _errors       what can go wrong with runs, beside the errors of taquba itself
    _keys         where the rows and objects of a workflow queue are kept
    _values       checks of arguments
"""

from taquba_workflow._effects import StepEffects, TerminalEffects
from taquba_workflow._errors import (
    ChildFailed,
    EffectsSealed,
    InputMismatch,
    MisplacedCall,
    NonDeterminism,
    RunFailed,
    RunNotFound,
    SignalTaken,
    StepError,
    StepFailed,
)
from taquba_workflow._functions.context import WorkflowContext
from taquba_workflow._functions.decorator import WorkflowDecorator, WorkflowFunction, workflow
from taquba_workflow._functions.definitions import StepOptions, Workflow, step
from taquba_workflow._functions.handles import RunHandle, StartOptions, fetch_run_result
from taquba_workflow._functions.history import CallKind, CallRecord, CallState, read_history
from taquba_workflow._functions.stepping import StepInfo, current_step
from taquba_workflow._memo import Memo
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
from taquba_workflow._records import RunSpec, RunState, RunStatus, SubmitOutcome
from taquba_workflow._runtime import WorkflowRuntime
from taquba_workflow._signals import MAX_SIGNAL_SIZE, SignalOutcome
from taquba_workflow._steps import Runner, Step
from taquba_workflow._termination import RunOutcome, TerminalHook
from taquba_workflow._webhooks import WebhookTerminalHook

__all__ = [
    "MAX_SIGNAL_SIZE",
    "After",
    "CallKind",
    "CallRecord",
    "CallState",
    "Cancel",
    "ChildFailed",
    "Continue",
    "EffectsSealed",
    "Fail",
    "Immediate",
    "InputMismatch",
    "Memo",
    "MisplacedCall",
    "NonDeterminism",
    "OnSignal",
    "RunFailed",
    "RunHandle",
    "RunNotFound",
    "RunOutcome",
    "RunSpec",
    "RunState",
    "RunStatus",
    "Runner",
    "SignalOutcome",
    "SignalTaken",
    "StartOptions",
    "Step",
    "StepEffects",
    "StepError",
    "StepFailed",
    "StepInfo",
    "StepOptions",
    "StepOutcome",
    "SubmitOutcome",
    "Succeed",
    "TerminalEffects",
    "TerminalHook",
    "Trigger",
    "WebhookTerminalHook",
    "Workflow",
    "WorkflowContext",
    "WorkflowDecorator",
    "WorkflowFunction",
    "WorkflowRuntime",
    "current_step",
    "fetch_run_result",
    "read_history",
    "step",
    "workflow",
]
