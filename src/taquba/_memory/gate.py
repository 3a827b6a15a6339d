"""The gate that claims pass: suspects run alone, and do not wait for that forever.

A suspect is a job whose process ended while it ran. It is claimed by a process that holds no other
job, and while it runs, that process gets no other one. Where no process is without jobs, one of
them volunteers: it gets no job for a while, so that the running ones can end. If one of them takes
longer, it may get other jobs again for as long as it was held back, and the next volunteer is held
back twice as long. That costs one process at most half of its time.

A running job may wait for the suspect itself. So a suspect that has waited for long enough runs
beside others; if its process ends then, that does not count, and the next time it waits for longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Protocol

from taquba._memory.leases import Lease, LeaseRegistry
from taquba._memory.window import Window
from taquba._model.records import Job

_PATIENCE_MS: Final = 1000
"""How long a suspect first holds others back."""

_ALONE_MS: Final = 3_000
"""How long a suspect first keeps others out while it runs.

A job that ends its process usually does so soon. Innocent jobs that take a minute each must not
run one after the other, and one that waits for another job must not stop everything. Each further
end of its process doubles the time, so a slow killer is caught as well.
"""

_WAITS_MS: Final = 5_000
"""How long a suspect first waits for a process without jobs. Each end of its process doubles it."""

_MAX_DOUBLINGS: Final = 20

Admission = Literal["nobody", "a suspect", "a suspect beside others", "others", "everybody"]
"""Who may be claimed now. ``others`` are the jobs that come before the queue's first suspect."""


class HasSuspects(Protocol):
    """The gate's view of a queue."""

    window: Window
    suspects: dict[bytes, Job]

    @property
    def claimed_from(self) -> bool:
        """Whether somebody waits for its jobs, or will return for them."""
        ...


def first_suspect(queue: HasSuspects) -> bytes | None:
    """The key of a queue's first suspect."""
    return min(queue.suspects, default=None)


def is_next(queue: HasSuspects) -> bool:
    """Whether a suspect is the first of a queue's pending jobs."""
    first = first_suspect(queue)
    front = queue.window.first_key()
    return first is not None and (front is None or first < front)


def alone_ms(job: Job) -> int:
    """How long a suspect keeps others out while it runs."""
    return _ALONE_MS << _doublings(job)


def _waits_ms(job: Job) -> int:
    """How long a suspect waits for a process without jobs."""
    return _WAITS_MS << _doublings(job)


def _doublings(job: Job) -> int:
    interruptions = 0 if job.suspicion is None else job.suspicion.interruptions
    return min(max(0, interruptions - 1), _MAX_DOUBLINGS)


class Gate:
    """The gate of one open store."""

    def __init__(self, leases: LeaseRegistry) -> None:
        self._leases = leases
        self.active = False
        """Whether the gate is shut, or a suspect waits or runs: otherwise every job passes."""
        self._alone: dict[str | None, Lease] = {}
        """The lease of the suspect that runs alone, by its process."""
        self._shut = False
        """Whether no job passes at all."""
        self._waiting: set[HasSuspects] = set()
        """Queues with suspects."""
        self._volunteer: str | None = None
        """The process that is held back."""
        self._held_until = 0
        """Monotonic ms; until then suspects hold its claims back."""
        self._next_hold = 0
        """Monotonic ms; before that they hold nobody back again."""
        self._patience_ms = _PATIENCE_MS
        self._waits_since: dict[bytes, int] = {}
        """Monotonic ms: since when a suspect waits for a process without jobs, by its key."""

    def is_alone(self, lease: Lease) -> bool:
        """Whether a lease is that of a suspect that runs alone."""
        return self._alone.get(lease.job.worker) is lease

    def add(self, queue: HasSuspects, key: bytes, job: Job) -> None:
        """A suspect waits."""
        queue.suspects[key] = job
        self._waiting.add(queue)
        self.active = True

    def remove(self, queue: HasSuspects, key: bytes) -> Job | None:
        """A suspect no longer waits: it is claimed, or leaves."""
        job = queue.suspects.pop(key, None)
        self._waits_since.pop(key, None)
        if not queue.suspects:
            self._waiting.discard(queue)
            self._consider()
        return job

    def enter(self, lease: Lease) -> None:
        """A suspect runs alone in its process until `open`."""
        self._alone[lease.job.worker] = lease
        self._held_until = self._next_hold = 0
        self._patience_ms = _PATIENCE_MS
        self._consider()

    def open(self, worker: str | None) -> None:
        """The suspect of a process has ended, or ran for long enough: others may run there."""
        self._alone.pop(worker, None)
        self._consider()

    def shut(self) -> None:
        """Let no job pass until `unshut`."""
        self._shut = True
        self._consider()

    def unshut(self) -> None:
        self._shut = False
        self._consider()

    def _consider(self) -> None:
        self.active = self._shut or bool(self._alone) or bool(self._waiting)

    def admit(
        self, queue: HasSuspects, worker: str | None, now: int, *, patient: bool
    ) -> tuple[Admission, int | None]:
        """Who may be claimed from `queue`, and in how many ms to ask again if others are held back.

        Args:
            queue: The queue.
            worker: The process that claims.
            now: Monotonic ms.
            patient: Whether the process may be held back for a suspect.
        """
        if self._shut or worker in self._alone:
            return "nobody", None
        due = is_next(queue)
        if due and not self._leases.holds_any(worker):
            return "a suspect", None
        if due and self._left_ms(queue, now) <= 0:
            return "a suspect beside others", None
        if not due and not _due_elsewhere(self._waiting, queue):
            return "others", None
        if now < self._held_until:
            return ("nobody" if worker == self._volunteer else "everybody"), None
        if patient and now >= self._next_hold:
            wait = self._patience_ms
            self._volunteer = worker
            self._held_until = now + wait
            self._next_hold = self._held_until + wait
            self._patience_ms = wait << 1
            return "nobody", wait
        return "everybody", None

    def begins_to_wait(self, queue: HasSuspects, now: int) -> int | None:
        """In how many ms to ask for a queue's suspect again, which waits from now on.

        None if it has waited before, or is not the next job.
        """
        if not is_next(queue):
            return None
        key = min(queue.suspects)
        if key in self._waits_since:
            return None
        self._waits_since[key] = now
        return self._left_ms(queue, now)

    def _left_ms(self, queue: HasSuspects, now: int) -> int:
        """How much longer a queue's suspect waits for a process without jobs."""
        key = min(queue.suspects)
        return self._waits_since.get(key, now) + _waits_ms(queue.suspects[key]) - now

    def lets_through(self, queue: HasSuspects, worker: str | None, now: int) -> bool:
        """Whether a claim of a process from `queue` would find a job in memory."""
        if not self.active:
            return len(queue.window) > 0
        if self._shut or worker in self._alone:
            return False
        due = is_next(queue)
        if due and not self._leases.holds_any(worker):
            return True
        if due and self._left_ms(queue, now) <= 0:
            return True
        held_back = (
            (due or _due_elsewhere(self._waiting, queue))
            and now < self._held_until
            and worker == self._volunteer
        )
        return len(queue.window) > 0 and not held_back


def _due_elsewhere(waiting: Iterable[HasSuspects], here: HasSuspects) -> bool:
    return any(queue is not here and queue.claimed_from and is_next(queue) for queue in waiting)
