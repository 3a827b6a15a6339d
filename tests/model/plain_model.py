"""The queue as a few dictionaries: what every operation has to do, without any of how.

Shares no code with the package. Each method makes one operation happen at `now` and returns what
the queue has to answer: a value, or the name of the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.model.raw_store import Contents, Counts, Record


class Settings(NamedTuple):
    """Settings of a queue; durations in ms."""

    max_attempts: int
    lease: int
    priority: int
    backoff_base: int
    backoff_max: int
    keep_done: int | None
    dead_retention: int | None


class Request(NamedTuple):
    queue: str
    payload: bytes
    delay: int = 0
    priority: int | None = None
    max_attempts: int | None = None
    dedup_key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    job_id: str | None = None
    entries: tuple[tuple[bytes, bytes], ...] = ()


class Effects(NamedTuple):
    requests: tuple[Request, ...] = ()
    writes: tuple[tuple[bytes, bytes], ...] = ()
    deletes: tuple[bytes, ...] = ()


ALONE = 3_000
"""How long a suspect keeps others out at first, ms; each further end of its process doubles it."""


class Hold(NamedTuple):
    """Who holds a claimed job, until when."""

    claim: int
    expires_at: int


Results = list[tuple[str, bool]]


class Model:
    def __init__(self, settings: Mapping[str, Settings], now: int) -> None:
        self.settings = settings
        self.now = now
        self.jobs: dict[str, Record] = {}
        self.holds: dict[str, Hold] = {}
        self.entries: dict[bytes, bytes] = {}
        self.done: dict[str, int] = dict.fromkeys(settings, 0)

    def copy(self) -> Model:
        other = Model(self.settings, self.now)
        other.jobs = dict(self.jobs)
        other.holds = dict(self.holds)
        other.entries = dict(self.entries)
        other.done = dict(self.done)
        return other

    def contents(self) -> Contents:
        """What the store has to hold."""
        dedup = {
            (job.queue, job.dedup_key): job.id
            for job in self.jobs.values()
            if job.holds_dedup_key and job.dedup_key is not None
        }
        stats = {queue: self.counts(queue) for queue in self.settings}
        return Contents(self.jobs, dedup, self.entries, stats)

    def counts(self, queue: str) -> Counts:
        states = [job.state for job in self.jobs.values() if job.queue == queue]
        counts = Counts(*(states.count(state) for state in Counts._fields))
        return counts._replace(done=self.done[queue])

    def pending(self, queue: str) -> list[Record]:
        """In claim order."""
        found = [job for job in self.jobs.values() if (job.queue, job.state) == (queue, "pending")]
        return sorted(found, key=lambda job: (job.priority, job.id))

    def claimable(self, queue: str) -> list[Record]:
        """What a claim may take, in claim order: no job runs beside a suspect."""
        held = [self.jobs[job_id] for job_id in self.holds]
        if any(job.suspicion is not None and job.suspicion[2] for job in held):
            return []
        pending = self.pending(queue)
        if held:
            return [job for job in pending if job.suspicion is None]
        if pending and pending[0].suspicion is not None:
            return pending[:1]
        suspects = [place for place, job in enumerate(pending) if job.suspicion is not None]
        return pending[: min(suspects, default=None)]

    def held_back(self, queue: str) -> bool:
        """Whether a suspect of the queue may hold others back, until what is held has ended."""
        return bool(self.holds) and any(job.suspicion is not None for job in self.pending(queue))

    # -- enqueue and claim ----------------------------------------------------------------------

    def enqueue(self, requests: Sequence[Request], results: Results | str) -> Results | str:
        """`results` only tells which ids the queue chose."""
        own = [request.job_id for request in requests if request.job_id is not None]
        if len(set(own)) < len(own) or any(job_id in self.jobs for job_id in own):
            return "DuplicateJobId"
        if isinstance(results, str) or len(results) != len(requests):
            return "results"
        expected: Results = []
        for request, (chosen, _) in zip(requests, results, strict=True):
            holder = self._holder(request)
            if holder is not None:
                expected.append((holder, False))
                continue
            job_id = chosen if request.job_id is None else request.job_id
            if job_id in self.jobs:
                return "an id of its own"
            self._add(request, job_id)
            self.entries.update(request.entries)
            expected.append((job_id, True))
        return expected

    def _holder(self, request: Request) -> str | None:
        if request.dedup_key is None:
            return None
        for job in self.jobs.values():
            if job.holds_dedup_key and (job.queue, job.dedup_key) == (
                request.queue,
                request.dedup_key,
            ):
                return job.id
        return None

    def _add(self, request: Request, job_id: str) -> None:
        settings = self.settings[request.queue]
        self.jobs[job_id] = Record(
            job_id,
            request.queue,
            "scheduled" if request.delay > 0 else "pending",
            request.payload,
            request.headers,
            settings.priority if request.priority is None else request.priority,
            self.now,
            settings.max_attempts if request.max_attempts is None else request.max_attempts,
            run_at=self.now + request.delay if request.delay > 0 else None,
            dedup_key=request.dedup_key,
            holds_dedup_key=request.dedup_key is not None,
        )

    def claim(self, queue: str, lease: int | None, names: Sequence[int]) -> list[Record]:
        """Claim the first jobs, one for each of `names`, which the queue's claims go by."""
        expires_at = self.now + (self.settings[queue].lease if lease is None else lease)
        taken: list[Record] = []
        for job, name in zip(self.claimable(queue), names, strict=False):
            suspicion = job.suspicion
            claimed = job._replace(
                state="claimed",
                attempts=job.attempts + 1,
                claimed_at=self.now,
                holds_dedup_key=False,
                suspicion=None if suspicion is None else (*suspicion[:2], True),
            )
            self.jobs[job.id] = claimed
            self.holds[job.id] = Hold(name, expires_at)
            taken.append(claimed)
        return taken

    # -- settle ---------------------------------------------------------------------------------

    def _held(self, job_id: str, claim: int) -> Record | None:
        hold = self.holds.get(job_id)
        return self.jobs[job_id] if hold is not None and hold.claim == claim else None

    def ack(self, job_id: str, claim: int, effects: Effects, got: Results | str) -> Results | str:
        job = self._held(job_id, claim)
        if job is None:
            return "ClaimLost"
        results = self._effects(effects, got)
        if not isinstance(results, str):
            del self.holds[job_id]
            self.done[job.queue] += 1
            if self.settings[job.queue].keep_done is None:
                del self.jobs[job_id]
            else:
                ended = _ended(job, self.now, "completed", None)
                self.jobs[job_id] = ended._replace(
                    state="done", finished_at=self.now, suspicion=None
                )
        return results

    def dead_letter(
        self, job_id: str, claim: int, reason: str, effects: Effects, got: Results | str
    ) -> Results | str:
        job = self._held(job_id, claim)
        if job is None:
            return "ClaimLost"
        results = self._effects(effects, got)
        if not isinstance(results, str):
            del self.holds[job_id]
            self.jobs[job_id] = _dead(job, self.now, "dead_lettered", reason)
        return results

    def nack(
        self, job_id: str, claim: int, error: str, effects: Effects, got: Results | str
    ) -> Results | str:
        """Results are empty where the job is retried."""
        job = self._held(job_id, claim)
        if job is None:
            return "ClaimLost"
        if job.attempts >= job.max_attempts:
            return self.dead_letter(job_id, claim, error, effects, got)
        wait = self._backoff(job.queue, job.attempts)
        del self.holds[job_id]
        self.jobs[job_id] = _ended(job, self.now, "retried", error)._replace(
            state="scheduled" if wait else "pending",
            run_at=self.now + wait if wait else None,
            last_error=error,
            suspicion=None,
        )
        return []

    def _backoff(self, queue: str, attempt: int) -> int:
        settings = self.settings[queue]
        wait = settings.backoff_base
        for _ in range(attempt - 1):
            wait = min(2 * wait, settings.backoff_max)
        return min(wait, settings.backoff_max)

    def snooze(self, job_id: str, claim: int, reason: str, delay: int) -> Results | str:
        job = self._held(job_id, claim)
        if job is None:
            return "ClaimLost"
        del self.holds[job_id]
        self.jobs[job_id] = job._replace(
            state="scheduled",
            attempts=job.attempts - 1,
            run_at=self.now + delay,
            last_error=reason,
            suspicion=None,
        )
        return []

    def _effects(self, effects: Effects, got: Results | str) -> Results | str:
        before = dict(self.entries)
        self.entries.update(effects.writes)
        for key in effects.deletes:
            self.entries.pop(key, None)
        results = self.enqueue(effects.requests, got)
        if isinstance(results, str):
            self.entries = before
        return results

    def renew(self, job_id: str, claim: int, extension: int) -> int | str:
        job = self._held(job_id, claim)
        if job is None:
            return "ClaimLost"
        if job.cancel_requested:
            return "CancelRequested"
        self.holds[job_id] = Hold(claim, self.now + extension)
        return self.now + extension

    # -- operate --------------------------------------------------------------------------------

    def cancel(self, job_id: str, effects: Effects, got: str) -> str:
        job = self.jobs.get(job_id)
        if job is None or job.state in ("done", "dead"):
            return "not_found"
        if job.state == "claimed":
            self.jobs[job_id] = job._replace(cancel_requested=True)
            return "requested"
        if any(request.job_id == job_id for request in effects.requests):
            return "DuplicateJobId"
        # The job leaves first, so its effects may take its dedup key. The answer does not tell
        # which ids the effects got, so they bring their own.
        ids: Results = [(request.job_id or "", True) for request in effects.requests]
        del self.jobs[job_id]
        results = self._effects(effects, ids)
        if isinstance(results, str):
            self.jobs[job_id] = job
            return results
        return "removed"

    def wake(self, job_id: str, payload: bytes | None) -> str:
        job = self.jobs.get(job_id)
        if job is None:
            return "not_found"
        if job.state != "scheduled":
            return "not_scheduled"
        self.jobs[job_id] = job._replace(state="pending", woken_at=self.now, wake_payload=payload)
        return "woken"

    def requeue(self, job_id: str) -> str:
        job = self.jobs.get(job_id)
        if job is None:
            return "JobNotFound"
        if job.state != "dead":
            return "InvalidState"
        self.jobs[job_id] = _ended(job, self.now, "requeued", None, counted=False)._replace(
            state="pending", attempts=0, run_at=None, finished_at=None, cancel_requested=False
        )
        return "requeued"

    def purge(self, job_id: str) -> str:
        job = self.jobs.get(job_id)
        if job is None:
            return "JobNotFound"
        if job.state != "dead":
            return "InvalidState"
        del self.jobs[job_id]
        return "purged"

    # -- entries --------------------------------------------------------------------------------

    def write(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = value

    def compare_write(self, key: bytes, expected: bytes | None, value: bytes | None) -> bool:
        if self.entries.get(key) != expected:
            return False
        self.write(key, value)
        return True

    # -- time and restarts ----------------------------------------------------------------------

    def advance(self, until: int) -> None:
        """Let everything happen that is due up to `until`, each at its time."""
        while True:
            due = [moment for job in self.jobs.values() for moment in self._deadlines(job)]
            first = min(due, default=until + 1)
            if first > until:
                break
            self.now = max(self.now, first)
            for job in list(self.jobs.values()):
                if any(moment <= self.now for moment in self._deadlines(job)):
                    self._expire(job)
        self.now = until

    def _deadlines(self, job: Record) -> list[int]:
        settings = self.settings[job.queue]
        ended = job.finished_at or 0
        match job.state:
            case "scheduled":
                return [job.run_at or 0]
            case "claimed":
                expires_at = self.holds[job.id].expires_at
                return [min(expires_at, _joined_at(job) or expires_at)]
            case "done":
                return [ended + (settings.keep_done or 0)]
            case "dead" if settings.dead_retention is not None:
                return [ended + settings.dead_retention]
            case _:
                return []

    def _expire(self, job: Record) -> None:
        match job.state:
            case "scheduled":
                self.jobs[job.id] = job._replace(state="pending")
            case "claimed" if self.now < self.holds[job.id].expires_at:
                assert job.suspicion is not None
                self.jobs[job.id] = job._replace(suspicion=(*job.suspicion[:2], False))
            case "claimed":
                del self.holds[job.id]
                self.jobs[job.id] = _taken_back(job, self.now, "lease_expired", "the lease expired")
            case _:
                del self.jobs[job.id]

    def reopened(self, job: Record | None, *, died: bool) -> Record | None:
        """What a job becomes when a new owner opens the store."""
        if job is not None and job.state == "claimed":
            job = (
                self._process_died(job) if died else self._interrupted(job, "the queue was closed")
            )
        if job is None or all(moment > self.now for moment in self._deadlines(job)):
            return job
        return job._replace(state="pending") if job.state == "scheduled" else None

    def _process_died(self, job: Record) -> Record:
        interruptions, deaths, alone = job.suspicion or (0, 0, False)
        why = "the owner process ended"
        if not alone:
            back = self._interrupted(job, why)
            return back._replace(suspicion=(interruptions + 1, deaths, False))
        deaths += 1
        if job.attempts >= job.max_attempts:
            times = "once" if deaths == 1 else f"{deaths} times"
            reason = f"what ran it ended {times} while it ran alone, and it has no attempt left"
            return _dead(job, self.now, "interrupted", f"{reason}: {why}")
        wait = self._backoff(job.queue, deaths)
        return _ended(job, self.now, "interrupted", why)._replace(
            state="scheduled" if wait else "pending",
            run_at=self.now + wait if wait else None,
            last_error=why,
            suspicion=(interruptions, deaths, False),
        )

    def _interrupted(self, job: Record, why: str) -> Record:
        suspicion = job.suspicion
        return _ended(job, self.now, "interrupted", why, counted=False)._replace(
            state="pending",
            attempts=job.attempts - 1,
            run_at=None,
            last_error=why,
            suspicion=None if suspicion is None else (*suspicion[:2], False),
        )

    def reopen(self, *, died: bool) -> None:
        """A new owner opens the store."""
        self.holds.clear()
        for job in list(self.jobs.values()):
            after = self.reopened(job, died=died)
            if after is None:
                del self.jobs[job.id]
            else:
                self.jobs[job.id] = after


def _joined_at(job: Record) -> int | None:
    """When others may run beside a suspect that runs alone; None for any other job."""
    if job.suspicion is None or not job.suspicion[2] or job.claimed_at is None:
        return None
    return job.claimed_at + (ALONE << max(0, job.suspicion[0] - 1))


def _ended(
    job: Record, now: int, outcome: str, error: str | None, *, counted: bool = True
) -> Record:
    """The job with one more entry in its history."""
    entry = (job.attempts, job.claimed_at, now, outcome, error, counted)
    return job._replace(history=(*job.history, entry))


def _dead(job: Record, now: int, outcome: str, reason: str) -> Record:
    ended = _ended(job, now, outcome, reason)
    return ended._replace(state="dead", finished_at=now, last_error=reason, suspicion=None)


def _taken_back(job: Record, now: int, outcome: str, error: str) -> Record:
    if job.attempts >= job.max_attempts:
        return _dead(job, now, outcome, error)
    back = _ended(job, now, outcome, error)
    return back._replace(state="pending", run_at=None, last_error=error, suspicion=None)
