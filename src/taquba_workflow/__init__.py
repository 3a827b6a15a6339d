"""taquba_workflow: durable multi-step runs on a taquba queue, one atomic commit per step.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _runtime       the facade `WorkflowRuntime`: submit, start, status, cancel, signal, run
    _functions     workflows as functions, replayed from what they have done (its own map inside)
    _handler       runs a step and turns its outcome into the settlement of its job
    _webhooks      a terminal hook that delivers ends by HTTP
    _retention     forgets runs that ended long ago
    _status, _signals, _children, _termination, _replay   looking at runs; signals in both
                   directions; runs of runs; terminal hooks; outputs kept until they are settled
    _transitions   what a run becomes, as pure functions
    _steps, _memo, _effects, _outcomes   what a runner sees, remembers, stages and returns
    _records, _headers, _keys   rows, headers, and where things are kept
    _turns, _values, _errors   whose turn it is, checks, errors
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
from taquba_workflow._functions.definitions import (
    StepOptions,
    Workflow,
    WorkflowDecorator,
    step,
    workflow,
)
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
    "WorkflowRuntime",
    "current_step",
    "fetch_run_result",
    "read_history",
    "step",
    "workflow",
]
