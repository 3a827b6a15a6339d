"""`Producer`: enqueues from any process into a store that another one owns."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Unpack, cast

from taquba._line.remote_owner import OwnerSocket
from taquba._model import validate
from taquba._model.batch import (
    MAX_BATCH_BYTES,
    MAX_BATCH_JOBS,
    check_entries,
    encode_request,
)
from taquba._model.clock import Clock, SystemClock
from taquba._model.errors import DuplicateJobId, InvalidArgument, ProducerClosed
from taquba._model.ids import IdGenerator, id_of_key
from taquba._model.options import (
    EnqueueOptions,
    EnqueueRequest,
    ProducerOptions,
    check_entries_of,
)
from taquba._model.own_tasks import LastTask
from taquba._model.place import Place, refuse
from taquba._model.records import EnqueueResult, JobRecord, QueueStats, WaitOutcome
from taquba._model.resources import ClosedAtExit, Opening
from taquba._model.validate import Duration
from taquba._objects.haste import Haste
from taquba._objects.location import StoreLocation
from taquba._producer.lanes import InboxLane, Lane, Results
from taquba._producer.owner_calls import Asking
from taquba._producer.packing import Packer
from taquba._producer.socket_lane import PATIENCE_SECONDS, SocketLane

_HEAD_BYTES: Final = 64
"""More than a batch needs around its requests."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt for a job that will be in the queue.

    Attributes:
        id: The job's id. If a dedup key is held when the owner takes the request, no job with this
            id is made.
    """

    id: str


class Sent(NamedTuple):
    """Requests that are durable.

    Attributes:
        receipts: Their receipts.
        results: What the owner made of them; None where that is not known yet.
    """

    receipts: list[Receipt]
    results: Results | None


class Producer(ClosedAtExit):
    """Enqueues into a store from a process that does not own it.

    It needs only access to the object store. A request is durable when the call returns, whether an
    owner runs or not; the owner, opened with ``inbox=True``, takes it into its queues, once. A
    producer belongs to the event loop that opened it. Make one with `Producer.open`:

        async with Producer.open("s3://bucket/prefix") as producer:
            await producer.enqueue("emails", b"hello")

    Every method raises `ProducerClosed` after `close`, `ForkedError` in a forked child,
    `WrongEventLoop` from another loop or thread, and `StoreError` when the store fails: the request
    may have been stored then, so repeat the call with the same `job_id` or `idempotency_key`.
    """

    def __init__(self, lane: Lane, asking: Asking, clock: Clock) -> None:
        """Internal: use `Producer.open`."""
        self._place = Place("producer")
        self._lane = lane
        self._asking = asking
        self._clock = clock
        self._ids = IdGenerator(clock)
        self._packer = Packer(lane, self._ids, clock)
        self._haste = Haste(self._place.loop)
        self._closing: asyncio.Task[None] | None = None

    @staticmethod
    def open(
        url: str | os.PathLike[str], *, fsync: bool = True, clock: Clock | None = None
    ) -> Opening[Producer]:
        """Connect to the inbox of a store; ``await`` it, or use it with ``async with``.

        Args:
            url: The URL that the owner opens; not an unnamed ``memory://``.
            fsync: For local folders: acknowledged requests are on disk, safe from power loss.
            clock: The clock from which delays count; the machine's by default.

        Raises:
            InvalidArgument: The URL or a setting cannot be used.
            InboxNotOpen: No owner has opened that store with ``inbox=True`` yet.
            IncompatibleStore: Its owner and this producer have incompatible versions.
            StoreError: The store cannot be reached or read.
        """
        if clock is None:
            clock = SystemClock()
        validate.instance(clock, Clock, "clock")
        location = StoreLocation.parse(url)
        location.check_shared()
        return Opening(connect(location, fsync, clock, PATIENCE_SECONDS))

    async def enqueue(
        self, queue: str, payload: bytes, **options: Unpack[ProducerOptions]
    ) -> Receipt:
        """Add a job; durable when this returns.

        Calls that wait at the same time share an object in the store.

        Args:
            queue: Name of the queue, 1 to 255 UTF-8 bytes.
            payload: The job's content; the whole request has at most 16 MiB.
            options: When it may start, its priority and so on; see `ProducerOptions`. Defaults
                are those of the owner's queue. An id, or an idempotency key, that is given again
                makes no second job.

        Raises:
            InvalidArgument: A value cannot be used; nothing was written.
        """
        await self._enter()
        key = options.pop("idempotency_key", None)
        if key is not None:
            options["job_id"] = job_id_of(queue, key, options.get("job_id"))
        request = EnqueueRequest(queue, payload, **cast("EnqueueOptions", options))
        return (await self._send([request])).receipts[0]

    async def enqueue_batch(self, requests: Iterable[EnqueueRequest]) -> list[Receipt]:
        """Add jobs to any queues, all or none of them; receipts are in the order of `requests`.

        A `job_id` in a request makes that request idempotent, as in `enqueue`.

        Raises:
            InvalidArgument: More than 10,000 requests, or more than 16 MiB.
            DuplicateJobId: A `job_id` occurs twice.
        """
        await self._enter()
        batch = list(requests)
        for request in batch:
            validate.instance(request, EnqueueRequest, "each request")
        if len(batch) > MAX_BATCH_JOBS:
            raise InvalidArgument(
                f"a batch has at most {MAX_BATCH_JOBS} requests; got {len(batch)}: send several"
            )
        check_entries(batch)
        check_entries_of(batch)
        own_ids = [request.job_id for request in batch if request.job_id is not None]
        if len(set(own_ids)) < len(own_ids):
            raise DuplicateJobId(next(name for name in own_ids if own_ids.count(name) > 1))
        return (await self._send(batch)).receipts if batch else []

    async def get_job(self, job_id: str) -> JobRecord | None:
        """Return a job in any state, or None; queries the owner through its socket.

        Raises:
            OwnerUnreachable: There is no owner with a socket on this machine.
        """
        await self._enter()
        return await self._asking.get_job(validate.job_id(job_id))

    async def stats(self, name: str) -> QueueStats:
        """Return the counters of a queue; queries the owner through its socket.

        Raises:
            OwnerUnreachable: There is no owner with a socket on this machine.
        """
        await self._enter()
        return await self._asking.stats(validate.queue_name(name))

    async def wait_for_completion(self, job_id: str, timeout: Duration) -> WaitOutcome:
        """Wait until a job is acknowledged or dead-lettered; queries the owner through its socket.

        Args:
            job_id: The job. One that went through the inbox is found once the owner has taken it.
            timeout: Seconds. If the owner ends meanwhile, its successor is queried.

        Raises:
            OwnerUnreachable: There is no owner with a socket on this machine.
        """
        await self._enter()
        timeout_ms = validate.duration_ms(timeout, "timeout")
        return await self._asking.wait_for_completion(validate.job_id(job_id), timeout_ms)

    async def close(self) -> None:
        """Send the waiting requests, and stop. Idempotent."""
        if self._closing is None or not self._closing.done():
            self._place.check()
        if self._closing is None or self._closing.cancelled():
            self._closing = LastTask(self._close(), self._haste.begin)
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        haste = self._haste
        await haste.bound(self._packer.close(haste.begin))
        await self._packer.give_up()
        await haste.bound(self._lane.close())
        haste.check()

    async def _enter(self) -> None:
        self._place.check()
        if self._closing is not None:
            await refuse(ProducerClosed())

    async def _send(
        self, requests: Sequence[EnqueueRequest], ids: IdGenerator | None = None
    ) -> Sent:
        await self._enter()
        now = self._clock.time_ms()
        ids = ids or self._ids
        receipts: list[Receipt] = []
        encoded: list[bytes] = []
        for request in requests:
            job_id = ids.next() if request.job_id is None else request.job_id
            encoded.append(encode_request(request, job_id, now))
            receipts.append(Receipt(job_id))
        size = sum(map(len, encoded))
        if size > MAX_BATCH_BYTES - _HEAD_BYTES:
            raise InvalidArgument(
                f"a call of a producer carries at most {MAX_BATCH_BYTES // 1024**2} MiB; got "
                f"{size} bytes: store large content as objects, and send their names"
            )
        return Sent(receipts, await self._packer.add(encoded))


async def send(
    producer: Producer, requests: Sequence[EnqueueRequest], ids: IdGenerator
) -> list[EnqueueResult]:
    """Send requests, each with an id that comes once or stands for one job; for a handle.

    Args:
        producer: Sends them.
        requests: Without dedup keys.
        ids: Draws the ids of those that have none.

    Returns:
        What becomes of each. Where the owner has yet to decide, its job counts as new.
    """
    sent = await producer._send(requests, ids)  # pyright: ignore[reportPrivateUsage] - a part of it
    if sent.results is not None:
        return list(sent.results)
    return [EnqueueResult(receipt.id, True) for receipt in sent.receipts]


def job_id_of(queue: str, idempotency_key: str, job_id: str | None) -> str:
    """The id of the one job that an idempotency key stands for in a queue."""
    if job_id is not None:
        raise InvalidArgument("give job_id or idempotency_key, not both")
    validate.dedup_key(idempotency_key, "idempotency_key")
    return id_of_key(validate.queue_name(queue), idempotency_key)


async def connect(location: StoreLocation, fsync: bool, clock: Clock, patience: float) -> Producer:
    """A producer that gives an owner so many seconds before it sends a batch by the inbox."""
    inbox = await InboxLane.open(location, fsync=fsync)
    owner = OwnerSocket(location)
    # The memory of a process has no other processes on its machine.
    lane = inbox if location.in_memory else SocketLane(owner, inbox, patience)
    return Producer(lane, Asking(location.url, owner), clock)
