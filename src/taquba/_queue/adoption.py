"""Jobs that were claimed under a former owner: those whose process lives go on.

An owner that opens a store finds claims in it, and who took part before. The processes among these
that live connect within moments, and name what they run. Until then their claims are held back, and
nothing else is claimed: a claim that was not written yet looks like a pending job.

A record says for which process its job was claimed. So each claim waits for its own process: what
one that has connected does not name was never started there, and returns unspent; the jobs of one
that has ended are suspects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from taquba._line.identity import has_ended, lives
from taquba._line.joining import MemberInfo, NamedJob
from taquba._memory.leases import Lease
from taquba._model import keys
from taquba._model.records import Job, JobStatus
from taquba._queue import claims
from taquba._queue.control import Resting, leave_window, locate_job
from taquba._queue.owner import Owner
from taquba._rules import transitions
from taquba._store.transaction import Transaction

_log: Final = logging.getLogger(__name__)

_SHUT_SECONDS: Final = 1.0
"""How long nothing is claimed at most, in real time: it is about processes that live."""

_GRACE_SECONDS: Final = 5.0
"""How long claims are held back at most, in real time."""

_LOOK_SECONDS: Final = 0.05
"""How often it is looked whether the processes still live."""

_ROUND: Final = 512

_NEVER_ARRIVED: Final = "it was lost on its way to the process that was to run it"

GiveBack = Callable[[Job], transitions.Change]
"""How a job returns."""


class Adoption:
    """The claims of a former owner, until it is known which of them go on.

    Args:
        owner: The owner of the store.
        expected: The processes that may hold them.
        give_back: How the jobs of a process return that has ended, or does not connect.
    """

    def __init__(
        self, owner: Owner, expected: Mapping[str, MemberInfo], give_back: GiveBack
    ) -> None:
        self._owner = owner
        self._expected = dict(expected)
        self._give_back = give_back
        self._ended: dict[str, bool] = {}
        """Whether a process is known to have ended, for those that hold claims."""
        self._held_back: dict[str | None, dict[str, Lease]] = {}
        """By the process for which the job was claimed, and by the job's id."""
        self._answered: list[str] = []
        """Processes that have named what they run; the rest of theirs is still held back."""
        self._heard = asyncio.Event()
        if expected:
            owner.gate.shut()

    @property
    def waits(self) -> bool:
        """Whether `run` must be called."""
        return bool(self._expected)

    def may_go_on(self, job: Job) -> bool:
        """Whether a process may still name a claimed job."""
        worker = job.worker
        if not self._expected or worker is None or worker in self._expected:
            return bool(self._expected)
        if worker not in self._ended:
            self._ended[worker] = has_ended(worker)
        return not self._ended[worker]

    def hold_back(self, job: Job) -> None:
        """Keep a job claimed until it is known who runs it."""
        lease = self._hold(job)
        self._held_back.setdefault(job.worker, {})[job.id] = lease
        if job.suspicion is not None and job.suspicion.alone:
            _keep_alone(self._owner, lease)

    async def adopt(self, worker: str, named: Sequence[NamedJob]) -> list[Lease | None]:
        """The claims of the jobs that a process names; None for those it has lost."""
        return [await self._adopt(worker, job) for job in named]

    def heard_of(self, worker: str) -> None:
        """A process has named all that it runs."""
        self._expected.pop(worker, None)
        if self._held_back:
            self._answered.append(worker)
        self._heard.set()

    async def run(self) -> None:
        """Wait for the processes; then give back what nobody has named."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        shut = bool(self._expected)
        while self._expected and loop.time() < begun + _GRACE_SECONDS:
            await self._resolve_known()
            if shut and loop.time() >= begun + _SHUT_SECONDS:
                shut = False
                self._open()
            self._heard.clear()
            if self._expected and not self._answered:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._heard.wait()
        await self._resolve_known()
        if self._expected:
            _log.warning(
                "%d processes that took part have not connected: their jobs return to the queues",
                len(self._expected),
            )
        self._expected.clear()
        for worker in list(self._held_back):
            await self._resolve(worker, self._give_back)
        if shut:
            self._open()

    def _open(self) -> None:
        self._owner.gate.unshut()
        self._owner.wake_claimers()

    async def _resolve_known(self) -> None:
        """Give back the jobs that the processes that are known about do not run."""
        while self._answered:
            await self._resolve(self._answered.pop(), self._unspent)
        for member in [one for one in self._expected.values() if not lives(one.host, one.pid)]:
            del self._expected[member.id]
            await self._resolve(member.id, self._give_back)

    async def _adopt(self, worker: str, named: NamedJob) -> Lease | None:
        owner = self._owner
        found = await locate_job(owner, named.id)
        if isinstance(found, Lease):
            job = found.job
            same = (job.attempts, job.claimed_at) == (named.attempts, named.claimed_at)
            held_back = self._held_back.get(job.worker, {})
            if same and job.worker in (worker, None) and held_back.get(job.id) is found:
                del held_back[job.id]
                return found
            return None
        if isinstance(found, Resting) and found.status is JobStatus.PENDING:
            return self._claim_again(worker, found, named)
        return None

    def _claim_again(self, worker: str, found: Resting, named: NamedJob) -> Lease | None:
        """Repeat a claim that was not written."""
        owner, job, key = self._owner, found.job, found.key
        if (
            found.damage is not None
            or job.suspicion is not None
            or job.queue != named.queue
            or job.attempts != named.attempts - 1
            # It was woken since then, and the process does not know of that.
            or (job.woken_at is not None and job.woken_at > named.claimed_at)
        ):
            return None
        transaction = Transaction()
        change = transitions.claim(job, key, named.claimed_at, worker)
        transaction.add(change)
        leave_window(owner, transaction, found)
        lease = self._hold(change.job)
        transaction.on_failed.append(lambda: owner.leases.drop(lease))
        owner.committer.submit(transaction, durable=False)
        return lease

    def _hold(self, job: Job) -> Lease:
        """A lease for a claimed job, as if it had just been claimed."""
        owner = self._owner
        lease = Lease(job, owner.clock.monotonic_ms() + owner.queue(job.queue).policy.lease_ms)
        lease.enter("held")
        owner.add_lease(lease)
        return lease

    def _unspent(self, job: Job) -> transitions.Change:
        """How a job returns that its process does not know of, which lives: it never ran."""
        return transitions.interrupt(job, self._owner.clock.time_ms(), _NEVER_ARRIVED)

    async def _resolve(self, worker: str | None, give_back: GiveBack) -> None:
        """Give back what is still held back for a process."""
        rest = list(self._held_back.pop(worker, {}).values())
        for start in range(0, len(rest), _ROUND):
            transaction = Transaction()
            for lease in rest[start : start + _ROUND]:
                if lease.state == "held":
                    claims.end_lease(self._owner, transaction, lease, give_back(lease.job))
            await self._owner.committer.submit(transaction, durable=False)


def replace(owner: Owner, found: Lease, lease: Lease) -> None:
    """Let a lease that this process has take the place of the one that its owner has found."""
    lease.job, lease.expires_at = found.job, found.expires_at
    lease.holder = None
    lease.on_over += found.on_over
    found.on_over.clear()
    if owner.gate.is_alone(found):
        _keep_alone(owner, lease)
    lease.enter("held")
    owner.leases.add(lease)


def _keep_alone(owner: Owner, lease: Lease) -> None:
    """Let nothing run beside a suspect that ran alone before, for as long as a suspect may."""
    owner.gate.enter(lease)
    lease.on_over.append(lambda: _let_others_in(owner, lease))
    claims.let_others_in_later(owner, lease)


def _let_others_in(owner: Owner, lease: Lease) -> None:
    if owner.gate.is_alone(lease) and owner.failure is None:
        owner.gate.open(lease.job.worker)
        owner.wake_claimers()


def living(members: Iterable[MemberInfo]) -> dict[str, MemberInfo]:
    """Those that may live, by their ids."""
    return {member.id: member for member in members if lives(member.host, member.pid)}


def member_row(member: MemberInfo) -> keys.Op:
    """The row by which the next owner knows of a process."""
    return keys.member(member.id), member.dump()
