"""Names of the headers that the runtime puts on its jobs, beside the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from taquba_workflow._values import RESERVED_HEADER

RUN_ID: Final = "workflow.run_id"
STEP: Final = "workflow.step"
INPUT: Final = "workflow.input"
"""SHA-256 of the run's input, in hexadecimal."""
SUBMITTED_AT: Final = "workflow.submitted_at"
"""Ms since the Unix epoch."""
MAX_ATTEMPTS: Final = "workflow.max_attempts"
SIGNAL: Final = "workflow.signal"
"""Key of the signal that the step waits, or waited, for."""
CARRIES: Final = "workflow.carries"
"""`CARRIES_SIGNAL` where the payload is a pair: the step's payload, and a signal that had come
before the wait for it began."""
CARRIES_SIGNAL: Final = "signal"
CARRIES_SIGNALS: Final = "signals"
"""Where the payload is a triple: the function's input, signals by key, and keys that were taken."""

FUNCTION: Final = "workflow.function"
"""Name of the function whose turn a job is."""
VERSION: Final = "workflow.version"
PARENT: Final = "workflow.parent"
"""Id of the run that a child belongs to."""
STARTED_AT: Final = "workflow.started_at"
"""When the function was to begin, ms since the Unix epoch."""
CANCELLING: Final = "workflow.cancelling"
SIGNALS: Final = "workflow.signals"
"""Keys of the signals that a function waits, or waited, for, as JSON."""
CHILDREN: Final = "workflow.children"
"""How many children a function waits for."""
ENDED_CHILD: Final = "workflow.ended_child"
"""Id of the run that has ended, on the job that tells its parent."""

_KEPT: Final = frozenset(
    (INPUT, SUBMITTED_AT, MAX_ATTEMPTS, FUNCTION, VERSION, PARENT, STARTED_AT, CANCELLING)
)


def split(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The runtime's headers, and the caller's."""
    own: dict[str, str] = {}
    callers: dict[str, str] = {}
    for name, value in headers.items():
        (own if name.startswith(RESERVED_HEADER) else callers)[name] = value
    return own, callers


def of_run(input_hash: bytes, submitted_at: int, max_attempts: int) -> dict[str, str]:
    """The runtime's headers that all steps of a run have."""
    return {
        INPUT: input_hash.hex(),
        SUBMITTED_AT: str(submitted_at),
        MAX_ATTEMPTS: str(max_attempts),
    }


def kept(own: Mapping[str, str]) -> dict[str, str]:
    """Those of the runtime's headers that go on to the next step."""
    return {name: value for name, value in own.items() if name in _KEPT}


def place(run_id: str, step_number: int) -> dict[str, str]:
    """The runtime's headers that say which step a job carries."""
    return {RUN_ID: run_id, STEP: str(step_number)}
