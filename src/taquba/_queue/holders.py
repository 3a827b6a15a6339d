"""Processes that work on jobs of an owner elsewhere, and the claims that they hold."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final

from taquba._line import methods
from taquba._line.connection import Connection
from taquba._line.frames import TooLarge
from taquba._line.joining import Adopted, MemberInfo, NamedJob
from taquba._line.tokens import SentJob, dump_jobs
from taquba._memory.leases import Lease
from taquba._model import keys
from taquba._model.errors import ClaimLost
from taquba._queue import claims, loops, settling
from taquba._queue.adoption import member_row
from taquba._queue.claims import OwnedClaim
from taquba._queue.dispatching import Dispatch
from taquba._queue.members import Present
from taquba._queue.owner import Owner
from taquba._store.transaction import Transaction

_log: Final = logging.getLogger(__name__)

_MOST_LOOPS: Final = 1000
"""Worker loops of a process."""

_BYTES_AT_ONCE: Final = 4 * 1024 * 1024
"""Jobs that are sent in one message have about this size together, at most."""


class Holder:
    """A process that holds claims through a connection.

    Args:
        owner: The owner of the store.
        connection: The connection.
    """

    def __init__(self, owner: Owner, connection: Connection) -> None:
        self._owner = owner
        self._connection = connection
        self._tokens = count(1)
        self._leases: dict[int, Lease] = {}
        self._loops: dict[int, Dispatch] = {}
        self._gone = False
        self._heard_at = owner.loop.time()
        self._unread: set[int] = set()
        """The claims that were handed out, and that the process has not said it has read."""
        self._sent_at = 0.0
        """When the first of them was."""
        self.hangs = False
        self.about: MemberInfo | None = None
        """The process, once it takes part."""
        self._known = False

    @property
    def name(self) -> str | None:
        """The id of the process; None if it has not said which it is."""
        return None if self.about is None else self.about.id

    async def join(self, about: MemberInfo, named: Sequence[NamedJob]) -> list[Adopted | None]:
        """The process takes part; adopt what it holds from a former owner."""
        owner = self._owner
        self.about = about
        adoption = owner.adoption
        assert adoption is not None
        found = await adoption.adopt(about.id, named)
        adopted = [
            None if lease is None else Adopted(self.take(lease), lease.job.cancel_requested)
            for lease in found
        ]
        if named:
            await self.be_known()
        adoption.heard_of(about.id)
        if self._gone:
            self.lose()
        return adopted

    async def be_known(self) -> None:
        """Let the next owner know of the process, before it is handed anything."""
        if self.about is not None and not self._known:
            row = Transaction()
            row.ops.append(member_row(self.about))
            await self._owner.committer.submit(row, durable=True)
            self._known = True

    # -- claims -----------------------------------------------------------------------------

    def take(self, lease: Lease) -> int:
        """Hold a claim for the process, which is told when it is asked to cancel, or is lost."""
        token = next(self._tokens)
        lease.holder, lease.number = self, token
        self._leases[token] = lease
        self._connection.holds += 1
        return token

    def asked_to_cancel(self, lease: Lease) -> None:
        if lease.number in self._leases:
            self._connection.push(methods.CANCELLED, lease.number)

    def over(self, lease: Lease) -> None:
        self._connection.holds -= 1
        if self._leases.pop(lease.number, None) is not None:
            self._connection.push(methods.OVER, lease.number)

    def expires(self, lease: Lease) -> bool:
        self.hangs = True
        return lease.number not in self._unread

    def hear(self) -> None:
        """The process has said something."""
        self._heard_at = self._owner.loop.time()
        if self.hangs:
            self.hangs = False
            for loop in self._loops.values():
                loop.free(0)

    def has_read(self, token: int) -> None:
        """The process has read what it was sent, up to the claim of that name."""
        read = {one for one in self._unread if one <= token}
        if read and self._owner.loop.time() > self._sent_at + methods.ALIVE_SECONDS:
            # It begins these only now.
            for lease in self._held(read):
                policy = self._owner.queue(lease.job.queue).policy
                claims.keep_alive(self._owner, lease, policy.lease_ms)
        self._unread -= read

    def look(self, now: float) -> None:
        """Take back what a process has not read that has not been heard for long."""
        if self._loops and now > self._heard_at + methods.SILENT_SECONDS:
            self.hangs = True
            unread, self._unread = self._unread, set()
            claims.release(self._owner, self._held(unread), "its worker hung before it began")

    def claim(self, token: int, job_id: str) -> OwnedClaim:
        """A claim that the process holds.

        Raises:
            ClaimLost: It does not hold it, or no longer.
        """
        lease = self._leases.get(token)
        if lease is None or lease.job.id != job_id:
            raise ClaimLost(job_id, claims.SETTLED)
        return OwnedClaim(self._owner, lease)

    async def done(self, tokens: Iterable[int]) -> list[int]:
        """Acknowledge jobs; returns the tokens of those that were lost before."""
        ended: dict[int, Lease] = {}
        lost: list[int] = []
        for token in tokens:
            lease = self._leases.get(token)
            if lease is None or lease.state != "held":
                lost.append(token)
            else:
                # The process knows how these end.
                ended[token] = self._leases.pop(token)
        if ended:
            await settling.ack_all(self._owner, ended.values(), lambda: self._leases.update(ended))
        return lost

    def keep_alive(self, tokens: Iterable[int], lease_ms: int) -> None:
        """Renew the leases of jobs that are worked on."""
        for lease in self._held(tokens):
            claims.keep_alive(self._owner, lease, lease_ms)

    def release(self, tokens: Iterable[int], why: str) -> asyncio.Future[None] | None:
        """Give claims back without spending their attempts."""
        return claims.release(self._owner, self._held(tokens), why)

    def lose_process(self, token: int, why: str) -> asyncio.Future[None] | None:
        """The child process that ran a job has ended."""
        lease = self._leases.get(token)
        return None if lease is None else claims.lose_process(self._owner, lease, why)

    def _held(self, tokens: Iterable[int]) -> list[Lease]:
        found = map(self._leases.get, tokens)
        return [lease for lease in found if lease is not None]

    # -- worker loops -----------------------------------------------------------------------

    def present(self) -> Present | None:
        """The process and its places, if it takes part."""
        places: Counter[str] = Counter()
        for loop in self._loops.values():
            places[loop.queue] += loop.at_a_time
        return None if self.about is None else Present(self.about, places)

    def work(self, number: int, queue: str, lease_ms: int, places: int) -> None:
        """A worker loop begins, or changes its queue."""
        self.leave(number)
        if len(self._loops) < _MOST_LOOPS:
            state = self._owner.queue(queue)
            self._loops[number] = Dispatch(self._owner, self, number, state, lease_ms, places)

    def free(self, number: int, places: int) -> None:
        """A worker loop has room for more jobs."""
        if (loop := self._loops.get(number)) is not None:
            loop.free(places)

    def leave(self, number: int) -> None:
        """A worker loop takes no more jobs."""
        if (loop := self._loops.pop(number, None)) is not None:
            loop.end()

    async def send(self, number: int, leases: Iterable[Lease]) -> int:
        """Hand jobs to a worker loop, and wait until the process has read most of what was sent.

        Returns:
            How many were sent. The others returned to their queue.
        """
        jobs: list[Lease] = []
        size = sent = 0
        for lease in leases:
            jobs.append(lease)
            size += len(lease.job.payload)
            if size > _BYTES_AT_ONCE:
                sent += self._push(number, jobs)
                jobs, size = [], 0
        if jobs:
            sent += self._push(number, jobs)
        await self._connection.drained()
        return sent

    def _push(self, number: int, leases: list[Lease]) -> int:
        if self._gone:
            # The connection ended while the jobs were claimed.
            claims.release(self._owner, leases, claims.ABANDONED)
            return 0
        jobs = [SentJob(self.take(lease), lease.job) for lease in leases]
        if not self._unread:
            self._sent_at = self._owner.loop.time()
        self._unread.update(job.token for job in jobs)
        try:
            self._connection.push(methods.JOBS, number, dump_jobs(jobs))
        except TooLarge as error:
            _log.error(
                "jobs of queue %r cannot be sent to the processes that work on it: %s; "
                "open the store with a payload_offload_threshold",
                leases[0].job.queue,
                error,
            )
            claims.release(self._owner, leases, "it is too large to be sent")
            return 0
        return len(jobs)

    # -- the end ----------------------------------------------------------------------------

    async def bye(self) -> None:
        """The process takes part no longer; what it holds returns to the queues."""
        self._end_loops()
        landed = self.release(list(self._leases), "its worker left")
        if landed is not None:
            await landed
        self._forget()

    def _forget(self) -> None:
        """The next owner need not wait for the process."""
        if self.about is not None and self._known and self._owner.failure is None:
            row = Transaction()
            row.delete(keys.member(self.about.id))
            self._owner.committer.submit(row, durable=False)
        self.about = None

    def lose(self) -> None:
        """The process has gone: what ran in it may be why."""
        self._gone = True
        self._end_loops()
        if self._owner.failure is not None:
            # The next owner finds them.
            return
        for lease in list(self._leases.values()):
            claims.lose_process(self._owner, lease, "its process has ended")
        self._forget()

    def _end_loops(self) -> None:
        for number in list(self._loops):
            self.leave(number)


class Holders:
    """The processes that hold claims of an owner, by connection.

    Args:
        owner: The owner of the store.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._by_connection: dict[Connection, Holder] = {}

    async def watch(self) -> None:
        """Look whether the processes hang, until cancelled."""
        while True:
            await asyncio.sleep(methods.ALIVE_SECONDS)
            if self._by_connection:
                await loops.hear_what_came()
            for holder in list(self._by_connection.values()):
                holder.look(self._owner.loop.time())

    def present(self) -> list[Present]:
        """The processes that take part."""
        found = [holder.present() for holder in self._by_connection.values()]
        return [present for present in found if present is not None]

    def of(self, connection: Connection) -> Holder:
        """The process at the other end of a connection."""
        holder = self._by_connection.get(connection)
        if holder is None:
            holder = self._by_connection[connection] = Holder(self._owner, connection)
            connection.on_end.append(lambda: self._by_connection.pop(connection).lose())
        return holder
