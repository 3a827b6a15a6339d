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


def split(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The runtime's headers, and the caller's."""
    own: dict[str, str] = {}
    callers: dict[str, str] = {}
    for name, value in headers.items():
        (own if name.startswith(RESERVED_HEADER) else callers)[name] = value
    return own, callers


def shared(input_hash: bytes, submitted_at: int, max_attempts: int) -> dict[str, str]:
    """The runtime's headers that are the same on all steps of a run."""
    return {
        INPUT: input_hash.hex(),
        SUBMITTED_AT: str(submitted_at),
        MAX_ATTEMPTS: str(max_attempts),
    }


def place(run_id: str, step_number: int) -> dict[str, str]:
    """The runtime's headers that say which step a job carries."""
    return {RUN_ID: run_id, STEP: str(step_number)}
