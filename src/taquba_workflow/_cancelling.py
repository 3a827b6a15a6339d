"""Requests to cancel runs whose steps are faster than the request.

A request finds the job of a run's step, and is refused when the run has moved on meanwhile. A run
that moves on all the time would never be caught. So after some refusals the request is written
down, and every so many steps a settlement looks for one: often enough to end such a run soon, and
so rarely that it costs nothing.
"""

from __future__ import annotations

from typing import Final

from taquba import Store
from taquba_workflow._keys import keys_of
from taquba_workflow._steps import StepJob

_EVERY: Final = 64
"""Of so many steps one looks for a request."""

PATIENCE: Final = 3
"""How often a request is refused before it is written down."""


def looks(step: StepJob) -> bool:
    """Whether the settlement of a step looks for a request."""
    return step.step_number % _EVERY == _EVERY - 1


def request_key(queue_name: str, run_id: str) -> str:
    """Key of the request to cancel a run."""
    return f"{keys_of(queue_name).memos(run_id)}cancel"


def request_of(step: StepJob) -> bytes:
    """The request to cancel the run of a step, and no other that has its id earlier or later."""
    return step.submitted_at.to_bytes(8, "big")


async def write_down(store: Store, step: StepJob) -> None:
    """Have a step of a run that lives see the request."""
    await store.kv_put(request_key(step.queue, step.run_id), request_of(step))


async def withdraw(store: Store, step: StepJob) -> None:
    """Remove a request that was carried out, or has come too late."""
    await store.kv_compare_delete(request_key(step.queue, step.run_id), request_of(step))
