"""Every time that a job ran, and whether it may have; every attempt that it has spent, and why.

A job runs again only if the process that ran it died, did nothing for so long that its lease may
have expired, or said that it failed. Whatever becomes of the owner is no reason. An attempt is
spent by a failure, by a lease that expired while the job's process did nothing, and by the end of a
process in which the job ran alone, unless another job ended it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from benches.soak.members.logs import Log, Run
from benches.soak.members.plan import EVIDENT, HAND, MAX_ATTEMPTS, PLAIN, SETTLED, WITH_EVIDENCE
from benches.soak.members.stored import Stored, StoredJob

_SLACK = 0.2


class Runs:
    """What ran, by job.

    Args:
        logs: The logs of all members.
        lease: Seconds.
    """

    def __init__(self, logs: Mapping[int, Log], lease: float) -> None:
        self.logs = logs
        self.lease = lease
        self.of: dict[str, list[Run]] = defaultdict(list)
        for log in logs.values():
            for run in log.runs:
                self.of[run.job].append(run)
        for runs in self.of.values():
            runs.sort(key=lambda run: run.begin)

    def died(self, run: Run, until: float) -> bool:
        """Whether the process that ran a job was killed."""
        killed = self.logs[run.member].killed
        return killed < math.inf and killed <= until

    def paused(self, run: Run, until: float) -> bool:
        """Whether the lease may have expired."""
        late = run.claimed is not None and until - run.claimed > self.lease - _SLACK
        return late or self.logs[run.member].pauses_between(run.begin, until)

    def slept(self, run: Run, moment: float) -> bool:
        """Whether the process of a run did nothing at a moment before."""
        return self.logs[run.member].pauses_between(moment, moment)

    def by(self, run: Run) -> str:
        log = self.logs[run.member]
        role = "owner" if log.was_owner(run.begin) else "member"
        alone = ", alone" if run.suspect else ""
        return (
            f"{run.job} ({run.kind}, {run.queue}) in run {run.name} ({role}{alone}, attempt "
            f"{run.attempts}) from {run.begin:.3f} to {run.end:.3f} ({run.how})"
        )


def check_runs(runs: Runs) -> Iterator[str]:
    """Started once, content."""
    enqueued = _acknowledged(runs.logs)
    for found in runs.of.values():
        for run in found:
            if not run.whole:
                yield f"content: the payload was damaged: {runs.by(run)}"
        for before, after in pairwise(found):
            if before.how == "raised" or runs.died(before, after.begin):
                continue
            if runs.slept(after, before.begin):
                # It had lost the job, and did not know yet.
                continue
            if enqueued.get(before.tag, math.inf) > before.end:
                # It ran before it was stored, and its owner may have ended in between.
                continue
            if not runs.paused(before, after.begin):
                yield (
                    f"started once: {runs.by(before)}; its process lived and was not late, but the "
                    f"job was started again: {runs.by(after)}"
                )


def _acknowledged(logs: Mapping[int, Log]) -> dict[str, float]:
    """When the caller knew that a job is stored, by the job's tag."""
    found: dict[str, float] = {}
    for log in logs.values():
        for call in log.calls:
            if call.name == "enqueue" and call.ok and call.end is not None:
                for tag in call.asked["tags"]:
                    found[tag] = min(call.end, found.get(tag, math.inf))
    return found


def check_attempts(runs: Runs, stored: Stored) -> Iterator[str]:
    """No innocent pays, and killers do."""
    for job in stored.jobs:
        if job.kind == "die":
            yield from _check_killer(runs, job)
        else:
            yield from _check_innocent(runs, job)


def _check_innocent(runs: Runs, job: StoredJob) -> Iterator[str]:
    if job.status != "done":
        yield f"no innocent pays: {job.id} ({job.kind}) is {job.status} in the end: {job.history}"
    allowed: Counter[str] = Counter()
    found = runs.of.get(job.id, [])
    ends = [*(run.begin for run in found), math.inf][1:]
    for run, until in zip(found, ends, strict=True):
        allowed["retried"] += run.how == "raised"
        allowed["lease_expired"] += runs.paused(run, until)
        log = runs.logs[run.member]
        cut_off = runs.died(run, until) and not (log.by_job and log.killed <= until)
        allowed["interrupted"] += run.suspect and (cut_off or runs.paused(run, until))
    spent = Counter(outcome for outcome, counted in job.history if counted)
    spent["completed"] -= 1
    for outcome, times in (+spent).items():
        if times > allowed[outcome]:
            yield (
                f"no innocent pays: {job.id} spent {times} attempts as {outcome}, but "
                f"{allowed[outcome]} had a reason: {job.history}; "
                f"{'; '.join(map(runs.by, found))}"
            )


def _check_killer(runs: Runs, job: StoredJob) -> Iterator[str]:
    spent = Counter(outcome for outcome, counted in job.history if counted)
    if job.status != "dead":
        yield f"killers: {job.id} is {job.status} in the end: {job.history}"
    elif spent.total() != MAX_ATTEMPTS or set(spent) > {"interrupted", "lease_expired"}:
        yield f"killers: {job.id} is dead after {job.history}"
    # The claim of an owner that dies at once may not have been written.
    found = runs.of.get(job.id, [])
    at_owner = sum(runs.logs[run.member].was_owner(run.begin) for run in found)
    if len(found) > len(job.history) + at_owner:
        yield f"killers: {job.id} was started {len(found)} times, but its history is {job.history}"


def check_settlements(runs: Runs, stored: Stored) -> Iterator[str]:
    """Settled once, by a run of the job, and counted once."""
    evidence: dict[str, list[str]] = defaultdict(list)
    for key in stored.kv:
        if key.startswith(SETTLED):
            job_id, _, run = key.removeprefix(SETTLED).rpartition("/")
            evidence[job_id].append(run)
    jobs = {job.id: job for job in stored.jobs}
    for job_id in evidence.keys() - jobs.keys():
        yield f"settled once: {job_id} was settled, but is not in the store"
    for job in stored.jobs:
        found = evidence.get(job.id, [])
        due = int(job.status == "done" and job.queue in WITH_EVIDENCE)
        if len(found) != due:
            yield f"settled once: {job.id} of {job.queue} is {job.status}; settled by {found}"
        known = {run.name for run in runs.of.get(job.id, [])}
        if not known.issuperset(found):
            yield f"settled once: {job.id} was settled by {found}, but was run by {known}"
        if job.status == "done" and not known:
            yield f"settled once: {job.id} is done, but never ran"
    for log in runs.logs.values():
        for call in log.calls:
            if call.name == "ack" and call.ok:
                name = f"{log.number}.{call.asked['run']}"
                if evidence.get(call.asked["job"]) != [name]:
                    yield f"settled once: {call.where} was acknowledged, but did not settle"
    yield from _check_counters(stored)


def _check_counters(stored: Stored) -> Iterator[str]:
    rows = Counter((job.queue, job.status) for job in stored.jobs)
    for queue in (EVIDENT, PLAIN, HAND):
        for status, count in stored.stats[queue].items():
            if rows[queue, status] != count:
                yield f"counters: {queue} counts {count} {status}, but has {rows[queue, status]}"


def check_late(runs: Runs) -> Iterator[str]:
    """A settlement by hand is refused only if the claim may have been lost, or it had landed."""
    for found in runs.of.values():
        for run, until in _with_ends(found):
            if run.how == "lost" and not runs.paused(run, until):
                yield f"one settlement: refused without a reason: {runs.by(run)}"


def _with_ends(found: Sequence[Run]) -> Iterator[tuple[Run, float]]:
    for run in found:
        yield run, run.end
