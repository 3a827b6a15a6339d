"""What became of each job: lost, settled twice, handed out to two, or all as it should be."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from benches.soak.final import Final
from benches.soak.history import Call, Life
from benches.soak.ledgers import Outcomes
from benches.soak.plan import FOLLOW, FOLLOW_PREFIX, LEASE_SECONDS, MAILS, QUEUES, TASKS

REFUSALS = {
    "ack": {"ClaimLost"},
    "nack": {"ClaimLost"},
    "dead_letter": {"ClaimLost"},
    "requeue_dead": {"InvalidState", "JobNotFound"},
    "handle": {"PermanentFailure", "RuntimeError"},
}
"""Errors that a call may be answered with. Any other that is not a store's is a violation."""

CALL_SECONDS = 100.0
"""Within which every call must say something: two operations' bounds, and a slow machine."""


MOST_FOR_NOTHING = 20
"""Claims that find nothing for one that finds a job: all workers may be woken for one job."""


@dataclass(slots=True)
class Handed:
    """One time that a job was handed out."""

    life: int
    begin: float
    end: float
    call: str
    attempts: int
    suspect: bool
    """It ran alone, because a process had ended in which it ran."""


@dataclass(slots=True)
class Job:
    """What the histories say of a job.

    Attributes:
        id: Its id.
        queue: Its queue.
        priority: Lower is claimed first.
        size: Bytes of its payload.
        call: The call that enqueued it; None for a follow-up.
        delayed: Whether it had to wait for its time.
        dedup_key: Its dedup key.
        born: Whether it was enqueued.
        ends: Calls that ended it, acknowledged or found to have landed: (life, end, name).
        first: When it was first handed out.
        latest: When it was last handed out.
        deaths: How often it was dead-lettered by a call.
        revivals: How often it may have been requeued.
        cancel_begin: When somebody first tried to cancel it.
    """

    id: str
    queue: str
    priority: int
    size: int
    call: Call | None = None
    delayed: bool = False
    dedup_key: str | None = None
    born: bool = False
    ends: list[tuple[int, float, str]] = field(default_factory=list)
    first: Handed | None = None
    latest: Handed | None = None
    deaths: int = 0
    revivals: int = 0
    cancel_begin: float = math.inf

    @property
    def key(self) -> tuple[int, str]:
        """Its place in the order of claims."""
        return self.priority, self.id


class JobBook:
    """Follows every job through the histories, one owner after the other."""

    def __init__(self, outcomes: Outcomes) -> None:
        self.outcomes = outcomes
        self.jobs: dict[str, Job] = {}
        self.violations: list[str] = []
        self.tally: Counter[str] = Counter()
        self.settled_claims: dict[tuple[str, str], float] = {}
        """When the settlement of a claim (its call, the job) began."""
        self._reclaims: list[tuple[Job, Handed, Handed]] = []

    def violate(self, text: str) -> None:
        self.violations.append(text)

    def follow(self, life: Life) -> None:
        """Take in what one owner did."""
        # Calls are in the order of their beginnings: a settlement comes after its claim.
        for call in life.calls:
            self.tally[call.name] += 1
            self.tally["unknown"] += call.unknown
            took = 0 if call.end is None else call.end - call.begin
            if took > CALL_SECONDS and call.name != "handle":
                self.violate(f"in time: {call.id} {call.name} took {took:.0f} s")
            expected = REFUSALS.get(call.name, set())
            if call.error is not None and not call.unknown and call.error not in expected:
                self.violate(f"errors: {call.id} {call.name} was answered with {call.error}")
            take = getattr(self, f"_{call.name}", None)
            if take is not None:
                take(call)
        for job, before, handed in self._reclaims:
            self._check_exclusive(job, before, handed)
        # Claims of one owner are settled with it, or never.
        self._reclaims.clear()
        self.settled_claims.clear()

    def _enqueue(self, call: Call) -> None:
        for number, (job_id, queue, priority, size, delayed, key) in enumerate(call.asked["jobs"]):
            job = Job(job_id, queue, priority, size, call, delayed, key)
            job.born = (
                call.result[number][1] if call.ok else self.outcomes.landed.get(call.id, False)
            )
            self.jobs[job_id] = job

    def _claim(self, call: Call) -> None:
        self.tally["claims of nothing"] += call.result == []
        for job_id, priority, attempts, size, suspect in call.result or ():
            assert call.end is not None
            handed = Handed(call.life, call.begin, call.end, call.id, attempts, suspect)
            self._hand_out(job_id, call.asked["queue"], priority, size, handed)

    def _handle(self, call: Call) -> None:
        job_id, priority, attempts, size, suspect = call.asked["job"]
        handed = Handed(call.life, call.begin, call.begin, call.id, attempts, suspect)
        self._hand_out(job_id, TASKS, priority, size, handed)

    def _hand_out(
        self, job_id: str, queue: str, priority: int, size: int | None, handed: Handed
    ) -> None:
        job = self.jobs.get(job_id)
        if job is None and queue == FOLLOW:
            job = self._follow_up(job_id)
        if job is None:
            self.violate(f"not lost: {handed.call} was handed {job_id}, which nobody enqueued")
            return
        if not job.born and not _may_be_seen(job, handed.life):
            self.violate(f"atomic: {handed.call} was handed {job_id}, whose enqueue had no effect")
        if (job.queue, job.priority, job.size) != (queue, priority, size):
            self.violate(f"content: {handed.call} was handed another {job_id} than was enqueued")
        before = job.latest
        if before is not None and before.life == handed.life and queue != TASKS:
            # Only the same owner knows of leases; the next one takes all jobs back at once.
            self._reclaims.append((job, before, handed))
        if job.first is None or handed.begin < job.first.begin:
            # An owner that is fenced and was suspended meanwhile hands out what it remembers,
            # after its successor has.
            job.first = handed
        job.latest = handed

    def _follow_up(self, job_id: str) -> Job | None:
        task = self.jobs.get(job_id.removeprefix(FOLLOW_PREFIX))
        if task is None or task.queue != TASKS:
            return None
        job = self.jobs[job_id] = Job(job_id, FOLLOW, 1000, 64)
        return job

    def _prove_task(self, follow_up: Job, life: int, moment: float) -> None:
        """What became of a follow-up is durable, so the end of its task is.

        That it was only handed out proves nothing: a claim is not durable, nor need be what it
        saw.
        """
        if follow_up.queue == FOLLOW and not follow_up.born:
            follow_up.born = True
            task = self.jobs[follow_up.id.removeprefix(FOLLOW_PREFIX)]
            task.ends.append((life, moment, "ack"))

    def _check_exclusive(self, job: Job, before: Handed, handed: Handed) -> None:
        settled = self.settled_claims.get((before.call, job.id), math.inf)
        if settled > handed.end and handed.end - before.begin < LEASE_SECONDS - 0.1:
            self.violate(
                f"one holder: {job.id} was handed to {handed.call} while {before.call} held it"
            )

    def _settlement(self, call: Call, *, landed: bool) -> Job | None:
        job = self.jobs.get(call.asked["job"])
        claim = call.asked["claim"], call.asked["job"]
        if call.ok or call.unknown:
            # Also one that may have landed ends the hold, as far as is known.
            if claim in self.settled_claims and landed:
                self.violate(f"settled once: {call.id} settled a claim of {claim[1]} again")
            self.settled_claims.setdefault(claim, call.begin)
        if not landed or job is None:
            return None
        latest = job.latest
        if (
            latest is not None
            and latest.call != claim[0]
            and latest.life == call.life
            and latest.end < call.begin
        ):
            self.violate(f"settled once: {call.id} settled {job.id} for a claim that was lost")
        if not job.born and job.call is not None:
            self.violate(f"atomic: {call.id} settled {job.id}, whose enqueue had no effect")
        self._prove_task(job, call.life, call.acknowledged)
        return job

    def _ack(self, call: Call) -> None:
        job = self._settlement(call, landed=self.outcomes.had_effect(call))
        if job is not None:
            job.ends.append((call.life, call.acknowledged, "ack"))

    def _dead_letter(self, call: Call) -> None:
        job = self._settlement(call, landed=self.outcomes.had_effect(call))
        if job is not None:
            job.deaths += 1

    def _nack(self, call: Call) -> None:
        dead = self.outcomes.had_effect(call)
        job = self._settlement(call, landed=call.ok or dead)
        if job is not None and dead:
            job.deaths += 1

    def _cancel(self, call: Call) -> None:
        job = self.jobs.get(call.asked["job"])
        if job is None:
            return
        job.cancel_begin = min(job.cancel_begin, call.begin)
        if self.outcomes.had_effect(call):
            job.ends.append((call.life, call.acknowledged, "cancel"))

    def _requeue_dead(self, call: Call) -> None:
        job = self.jobs.get(call.asked["job"])
        if job is not None and (call.ok or call.unknown):
            job.revivals += 1

    # -- the end ----------------------------------------------------------------------------

    def close(self, final: Final) -> None:
        """Compare what was followed with what is in the store."""
        for job_id, (queue, _) in final.places.items():
            if queue == FOLLOW and job_id not in self.jobs:
                self._follow_up(job_id)
            if (job := self.jobs.get(job_id)) is not None:
                self._prove_task(job, 0, math.inf)
        for job in self.jobs.values():
            self._check_end(job, final.places.get(job.id))
        for job_id in final.places.keys() - self.jobs.keys():
            self.violate(f"not lost: {job_id} is in the store, but nobody enqueued it")
        self._check_counters(final)
        nothing, claims = self.tally["claims of nothing"], self.tally["claim"]
        if nothing > MOST_FOR_NOTHING * (claims - nothing) + 1000:
            self.violate(f"no busy waiting: {nothing} of {claims} claims that were due got nothing")

    def _check_end(self, job: Job, place: tuple[str, str] | None) -> None:
        waits = place is not None and place[1] != "done"
        if not job.born:
            if place is not None:
                self.violate(f"atomic: {job.id} is in the store, but its enqueue had no effect")
            return
        if not job.ends and not waits:
            self.violate(f"not lost: {job.id} was enqueued, never settled, and is {place}")
        if job.ends and waits:
            self.violate(f"settled once: {job.id} ended, and still is {place}")
        if len(job.ends) > 1:
            self.violate(f"settled once: {job.id} ended more than once: {job.ends}")
        if job.deaths > 1 + job.revivals:
            self.violate(f"settled once: {job.id} was dead-lettered {job.deaths} times")
        if job.ends and job.latest is not None:
            # An end that is known from the store alone has no time.
            life, end, _ = min(job.ends)
            if life and (job.latest.life, job.latest.begin) > (life, end):
                self.violate(f"settled once: {job.latest.call} was handed {job.id} after its end")

    def _check_counters(self, final: Final) -> None:
        rows: Counter[tuple[str, str]] = Counter(final.places.values())
        acked = Counter(
            job.queue for job in self.jobs.values() for end in job.ends if end[2] == "ack"
        )
        for queue in QUEUES:
            stats = final.stats.get(queue, {})
            for status in ("pending", "scheduled", "claimed", "dead"):
                if stats.get(status, 0) != rows[queue, status]:
                    self.violate(
                        f"counters: {queue} counts {stats.get(status, 0)} {status}, "
                        f"but has {rows[queue, status]}"
                    )
            if stats.get("done", 0) != acked[queue]:
                self.violate(
                    f"counters: {queue} counts {stats.get('done', 0)} done, "
                    f"but {acked[queue]} were acknowledged"
                )
            if queue != MAILS and rows[queue, "done"]:
                self.violate(f"no leak: {queue} keeps {rows[queue, 'done']} done jobs")


def _may_be_seen(job: Job, life: int) -> bool:
    """Whether an owner may hand out a job that is not in the store afterwards.

    It hands out what is not durable yet. When it dies then, nobody was told that the job was
    enqueued, and nothing that was decided on it is durable either. The same goes for follow-ups.
    """
    return job.call is None or (job.call.unknown and job.call.life == life)
