"""Order of claims, nothing hidden, dedup keys: what can be told from the outside.

A call takes effect at some moment between its beginning and its end, so only such statements are
checked that hold whichever moment that was:

- A job was *surely waiting* while a claim was made if its enqueue was acknowledged before that
  claim began (and the owner had the store open), and it was first handed out by a claim that began
  after that claim had ended. Jobs that had to wait for their time do not count, nor do retried and
  requeued ones: nobody outside sees when they came back. Neither do suspects, which run alone, nor
  jobs that a claim may have held that failed or never returned.
- While a job was surely waiting, no claim of its queue by the same owner may return a job that
  comes after it. None may return nothing either, unless a suspect may have been running, or have
  been holding others back: before the last one of an owner's life had ended, and in the last
  seconds of a life, when one may have been waiting that was never handed out.
- While a job surely held a dedup key, no other may be enqueued with the key; and an enqueue that
  returned a job must not return one that was handed out before.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from benches.soak.history import Call, Life
from benches.soak.jobs import Job

GIVEN_BACK_SECONDS = 60.0
"""Within which a job is back that a failed claim may have held."""

HELD_BACK_SECONDS = 10.0
"""For how long, at the end of a life, a suspect may have held others back that nobody saw."""

Key = tuple[int, str]


def check_order(life: Life, jobs: dict[str, Job]) -> Iterator[str]:
    """Check the claims of one owner; `jobs` as they are after its life."""
    if life.opened is None:
        return
    claims: dict[str, list[Call]] = defaultdict(list)
    for call in life.calls:
        if call.name == "claim":
            claims[call.asked["queue"]].append(call)
    for calls in claims.values():
        returned = [call for call in calls if call.ok]
        failed = [call for call in calls if not call.ok]
        waiting = sorted(_surely_waiting(life, returned, failed, jobs))
        yield from _compare(returned, waiting, _times_without_suspects(life))


def _surely_waiting(
    life: Life, claims: Iterable[Call], failed: list[Call], jobs: dict[str, Job]
) -> Iterator[tuple[float, Key, float]]:
    """(from when, place in the order, until when) of jobs that surely waited in this life."""
    assert life.opened is not None
    for claim in claims:
        for job_id, *_ in claim.result:
            job = jobs.get(job_id)
            if job is None or job.call is None or job.call.end is None or not job.call.ok:
                continue
            first = job.first
            if job.delayed or first is None or first.call != claim.id or first.attempts != 1:
                continue
            if first.suspect:
                continue
            since = max(job.call.end, life.opened)
            if since < first.begin and not _may_have_held(failed, since, first.begin):
                yield since, job.key, first.begin


def _may_have_held(failed: list[Call], since: float, until: float) -> bool:
    return any(
        call.begin < until and (call.end is None or call.end + GIVEN_BACK_SECONDS > since)
        for call in failed
    )


def _times_without_suspects(life: Life) -> tuple[float, float]:
    """From when to when it is sure that no suspect ran or waited."""
    suspects: set[str] = set()
    since = until = -math.inf
    for call in life.calls:
        until = max(until, call.begin if call.end is None else call.end)
        handed = call.result if call.name == "claim" and call.ok else ()
        if call.name == "handle":
            handed = (call.asked["job"],)
        if any(suspect for *_, suspect in handed):
            suspects.add(call.id)
    for call in life.calls:
        if call.id in suspects or call.asked.get("claim") in suspects:
            since = max(since, math.inf if call.end is None else call.end)
    return since, until - HELD_BACK_SECONDS


def _compare(
    claims: list[Call], waiting: list[tuple[float, Key, float]], sure: tuple[float, float]
) -> Iterator[str]:
    """Go through the claims by their beginning, with a heap of the jobs that waited by then."""
    heap: list[tuple[Key, float]] = []
    coming = 0
    for claim in sorted(claims, key=lambda call: call.begin):
        while coming < len(waiting) and waiting[coming][0] < claim.begin:
            _, key, until = waiting[coming]
            heapq.heappush(heap, (key, until))
            coming += 1
        taken: list[Key] = [(priority, job_id) for job_id, priority, *_ in claim.result]
        if taken != sorted(taken):
            yield f"order: {claim.id} returned its jobs out of order"
        last = max(taken, default=(math.inf, ""))
        aside: list[tuple[Key, float]] = []
        while heap and heap[0][0] < last:
            key, until = heapq.heappop(heap)
            if claim.end is not None and until > claim.end:
                aside.append((key, until))
                if not taken and not sure[0] < claim.begin < claim.end < sure[1]:
                    break
                what = f"returned {taken[-1][1]}" if taken else "returned nothing"
                rule = "order" if taken else "nothing hidden"
                yield f"{rule}: {claim.id} {what} while {key[1]} was waiting"
                break
            if until > claim.begin:
                # Another claim at the same time took it: this one need not have seen it.
                aside.append((key, until))
        for entry in aside:
            heapq.heappush(heap, entry)


def check_dedup(jobs: dict[str, Job]) -> Iterator[str]:
    """No two jobs hold a dedup key at the same time, as far as that is sure."""
    holders: dict[tuple[str, str], list[Job]] = defaultdict(list)
    hits: list[tuple[Job, str]] = []
    for job in jobs.values():
        call = job.call
        if job.dedup_key is None or call is None or not call.ok:
            continue
        if job.born:
            holders[job.queue, job.dedup_key].append(job)
        else:
            # A call with a dedup key enqueues one job.
            hits.append((job, call.result[0][0]))
    for (_, name), held in holders.items():
        held.sort(key=lambda job: _call(job).begin)
        for holder, other in itertools.pairwise(held):
            call, later = _call(holder), _call(other)
            if call.end is None or later.end is None or call.end > later.begin:
                continue
            released = min(_first_try(holder), holder.cancel_begin)
            if released > later.end:
                yield f"dedup: {other.id} was enqueued while {holder.id} held key {name}"
    for job, found in hits:
        call, held_by = _call(job), jobs.get(found)
        if held_by is None or (held_by.queue, held_by.dedup_key) != (job.queue, job.dedup_key):
            yield f"dedup: {call.id} was told of {found}, which never had the key"
        elif (
            held_by.first is not None
            and held_by.first.life == call.life
            and held_by.first.end < call.begin
        ):
            yield f"dedup: {call.id} was told of {found}, which had been handed out before"


def _call(job: Job) -> Call:
    assert job.call is not None
    return job.call


def _first_try(job: Job) -> float:
    """The first moment at which a job may have been claimed, as far as that is known."""
    if job.first is None:
        # Claims that nobody was told of free the key, too; jobs that were never handed out may
        # have been claimed so.
        return -math.inf if not job.ends else math.inf
    return job.first.begin if job.first.attempts == 1 else -math.inf
