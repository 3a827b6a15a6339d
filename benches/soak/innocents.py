"""No innocent pays: the end of an owner costs no attempt of a job that did not run alone.

A hand-out that was no suspect's did not run alone, as far as the store can know. So if the next
owner hands the job out again, it is the same attempt. Only such hand-outs are judged whose attempt
can surely not have been spent in another way: nothing tried to settle them, and no lease can have
expired, neither until the next owner had the store open nor from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benches.soak.history import Call, Life
from benches.soak.plan import LEASE_SECONDS

_SURELY_HELD = LEASE_SECONDS - 0.1


@dataclass(slots=True)
class _HandOut:
    """A job that was handed out once by an owner, and not settled by it."""

    call: Call
    attempts: int
    suspect: bool


def check_innocents(lives: Iterable[Life]) -> Iterator[str]:
    """Compare what each owner left running with what the next one handed out."""
    left: dict[str, _HandOut] = {}
    for life in lives:
        if life.opened is None:
            # It has handed out nothing.
            continue
        first: dict[str, _HandOut] = {}
        unsure: set[str] = set()
        for call in life.calls:
            for job_id, attempts, suspect in _handed(call):
                if job_id in first:
                    unsure.add(job_id)
                else:
                    first[job_id] = _HandOut(call, attempts, suspect)
            if "claim" in call.asked or (call.name == "handle" and call.end is not None):
                unsure.add(_job_of(call))
        for job_id, now in first.items():
            before = left.get(job_id)
            if before is None or before.suspect or now.attempts <= before.attempts:
                continue
            if life.opened - before.call.begin > _SURELY_HELD:
                continue
            if _moment(now.call) - life.opened > _SURELY_HELD:
                continue
            yield (
                f"no innocent pays: {now.call.id} was handed {job_id} in attempt {now.attempts}, "
                f"but owner {before.call.life} ended during attempt {before.attempts}, which "
                f"{before.call.id} had begun and which did not run alone"
            )
        left = {job_id: out for job_id, out in first.items() if job_id not in unsure}


def _handed(call: Call) -> Iterator[tuple[str, int, bool]]:
    jobs = call.result if call.name == "claim" and call.ok else ()
    if call.name == "handle":
        jobs = (call.asked["job"],)
    for job_id, _, attempts, _, suspect in jobs:
        yield job_id, attempts, suspect


def _job_of(call: Call) -> str:
    job = call.asked["job"]
    return str(job[0] if call.name == "handle" else job)


def _moment(call: Call) -> float:
    """By when its job had been claimed."""
    return call.begin if call.name == "handle" or call.end is None else call.end
