"""taquba_workflow: durable multi-step runs on a taquba queue, one atomic commit per step.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _runtime      `WorkflowRuntime`: submits, steers and runs the runs of one workflow queue
    _functions    workflows as functions, on top of runs and their steps
    _handler      the handler of a workflow queue: finds out which kind of job it is given
    _kinds        the kinds of jobs that a workflow has: how each is performed and concluded
    _children     runs that belong to another: their end wakes it
    _status       where a run is, read from its row and its job
    _signals      signals: rows in both directions, decided under one lock per key
    _transitions  what a run becomes: every transition, as a pure function of step, outcome and time
    _replay       outputs of steps, kept until they are settled
    _steps        a step: the job that carries it, and what its runner sees of it
    _memo         what steps remember beyond the end of an attempt
    _retention    forgets runs that ended long enough ago, with all that their steps remember
    _webhooks     ends of runs as webhooks, through taquba_webhooks
    _termination  the end of a run, as its hook sees it: a job of its own
    _effects      what a step or a terminal hook stages, to be applied with its settlement
    _headers      names of the headers that the runtime puts on its jobs, beside the caller's
    _outcomes     what a step decides: how its run goes on, or how it ends
    _records      the rows that tell about runs, and what callers see of them
    _errors       what can go wrong with runs, beside the errors of taquba itself
    _keys         where the rows and objects of a workflow queue are kept
    _turns        what the runtimes of one workflow queue share in memory
    _values       checks of what callers pass in
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
