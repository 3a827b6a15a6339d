"""`Service`: one of the processes that share a store; all enqueue, one of them owns it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from typing import Literal, Self, Unpack

from taquba._model import validate
from taquba._model.errors import InboxNotOpen, InvalidArgument, ProducerClosed, TaqubaError
from taquba._model.options import EnqueueRequest, InboxConfig, ProducerOptions
from taquba._model.own_tasks import only_it_was_cancelled
from taquba._model.place import Place, refuse
from taquba._model.records import JobRecord, QueueStats, WaitOutcome
from taquba._model.resources import Opening
from taquba._model.validate import Duration
from taquba._objects.candidates import stand_for
from taquba._objects.inbox import InboxObjects
from taquba._objects.location import StoreLocation
from taquba._producer.producer import Producer, Receipt
from taquba._queue.open_options import OwnerOptions
from taquba._queue.queue import Queue
from taquba._service.ownership import Ownership
from taquba._service.settings import Handlers, worker_specs
from taquba._worker.shutdown import Shutdown, check_shutdown
from taquba._worker.workers import stopping
from taquba.extending import RunsInBackground

Part = Literal["auto", "producer"]
Role = Literal["owner", "producer"]


class Service(RunsInBackground):
    """One of several processes that share a store.

    Each of them enqueues. One of them at a time is the owner: it has the store open and runs the
    handlers. When it ends or dies, another takes its place. Use it in every process of a web
    server, once it has forked:

        async with Service("s3://bucket/prefix", {"mail": send_mail}) as service:
            await service.enqueue("mail", b"hello")

    At the end of the block an owner stops claiming, lets running handlers finish, and hands over.
    An error that ends a service early, such as a store with another layout, is raised by `enqueue`
    and at the end of the block.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        handlers: Handlers,
        *,
        role: Part = "auto",
        takeover_after: Duration = 5,
        drain_timeout: Duration | None = None,
        **options: Unpack[OwnerOptions],
    ) -> None:
        """Create the service; nothing happens before it is entered or run.

        Args:
            url: Where the store is: a local folder or a bucket, as for `Queue.open`.
            handlers: The handlers that an owner runs: a mapping of queue names to handlers, or a
                list of `WorkerSpec`. Give the same ones to all processes, because any may become
                the owner.
            role: ``"auto"`` stands for election, ``"producer"`` only enqueues.
            takeover_after: For buckets: how many seconds an owner must give no sign of life before
                another process takes its place. An owner gives three signs in that time, each a
                write to the store. In a folder the operating system reports the end of an owner at
                once.
            drain_timeout: How long running handlers get at the end, seconds; None waits for them.
            options: How an owner opens the store: options of `Queue.open`.
        """
        if role not in ("auto", "producer"):
            raise InvalidArgument(f"role must be 'auto' or 'producer'; got {role!r}")
        takeover_ms = validate.duration_ms(takeover_after, "takeover_after", minimum=100)
        validate.optional_duration_ms(drain_timeout, "drain_timeout")
        self._location = StoreLocation.parse(url)
        election = stand_for(self._location, takeover_ms / 1000)

        if options.setdefault("inbox", InboxConfig()) is False:
            raise InvalidArgument(
                "the other processes of a service may enqueue through its inbox: leave inbox=False "
                "out, or pass an InboxConfig"
            )

        def open_queue() -> Opening[Queue]:
            return Queue.open(url, producer_socket=True, take_over=True, **options)

        open_queue().discard()
        workers = worker_specs(handlers)
        if role == "auto" and not workers:
            raise InvalidArgument(
                "handlers must not be empty, because this process may be the owner"
            )
        self._ownership = Ownership(
            election,
            self._location,
            open_queue,
            workers,
            pause_seconds=takeover_ms / 1000,
            drain_timeout=drain_timeout,
        )
        self._stands = role == "auto"
        self._fsync = options.get("fsync", True)
        self._place: Place | None = None
        self._opening: asyncio.Future[Producer] | None = None
        self._refusal: TaqubaError | None = InvalidArgument(
            "this Service is not running yet: use it with `async with`"
        )

    @property
    def role(self) -> Role:
        """The current role of this process."""
        return "producer" if self._ownership.queue is None else "owner"

    async def enqueue(
        self, queue: str, payload: bytes, **options: Unpack[ProducerOptions]
    ) -> Receipt:
        """Add a job; durable when this returns. See `Producer.enqueue`."""
        return await (await self._connected()).enqueue(queue, payload, **options)

    async def enqueue_batch(self, requests: Iterable[EnqueueRequest]) -> list[Receipt]:
        """Add jobs to any queues, all or none of them; see `Producer.enqueue_batch`."""
        producer = await self._connected()
        return await producer.enqueue_batch(requests)

    async def get_job(self, job_id: str) -> JobRecord | None:
        """Return a job in any state, or None; see `Producer.get_job`."""
        return await (await self._connected()).get_job(job_id)

    async def stats(self, name: str) -> QueueStats:
        """Return the counters of a queue; see `Producer.stats`."""
        return await (await self._connected()).stats(name)

    async def wait_for_completion(self, job_id: str, timeout: Duration) -> WaitOutcome:
        """Wait until a job is acknowledged or dead-lettered; see `Producer.wait_for_completion`."""
        return await (await self._connected()).wait_for_completion(job_id, timeout)

    async def run(self, shutdown: Shutdown | None = None) -> None:
        """Take part until `shutdown` is set, and then hand over to others.

        Raises:
            TaqubaError: The store cannot be opened, by this process or any other.
        """
        check_shutdown(shutdown)
        self._begin()
        stop = asyncio.Event() if shutdown is None else shutdown
        refusal: TaqubaError = ProducerClosed()
        try:
            if self._stands:
                await self._ownership.stand(stop)
            else:
                await stop.wait()
        except TaqubaError as error:
            refusal = error
            raise
        finally:
            self._refusal = refusal
            await self._disconnect()

    async def __aenter__(self) -> Self:
        self._begin()
        return await super().__aenter__()

    def _begin(self) -> None:
        self._place = Place("service")
        self._refusal = None

    async def _connected(self) -> Producer:
        """The producer of this process; opened when it is first needed, or failed before."""
        if self._place is not None:
            self._place.check()
        if self._refusal is not None:
            await refuse(self._refusal.again())
        while True:
            opening = self._opening
            if opening is None or opening.cancelled() or _has_failed(opening):
                opening = self._opening = asyncio.ensure_future(self._connect())
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                if not only_it_was_cancelled(opening):
                    raise

    async def _connect(self) -> Producer:
        if self._stands:
            await self._prepare_inbox()
        return await Producer.open(self._location.url, fsync=self._fsync)

    async def _prepare_inbox(self) -> None:
        """Requests put there now will be taken by the first owner, this process or another."""
        inbox = await InboxObjects.open(self._location, fsync=self._fsync)
        try:
            await inbox.check_sign()
        except InboxNotOpen:
            await inbox.put_up_sign()
        finally:
            await inbox.close()

    async def _disconnect(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            # Not by awaiting it: it may have been cancelled.
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                with contextlib.suppress(TaqubaError):
                    await opening.result().close()


def _has_failed(opening: asyncio.Future[Producer]) -> bool:
    return opening.done() and opening.exception() is not None


async def run_service(
    url: str | os.PathLike[str],
    handlers: Handlers,
    *,
    role: Part = "auto",
    takeover_after: Duration = 5,
    drain_timeout: Duration | None = None,
    shutdown: Shutdown | None = None,
    handle_signals: bool = True,
    **options: Unpack[OwnerOptions],
) -> None:
    """Take part in a service until SIGTERM, SIGINT or `shutdown`; see `Service`.

    A second signal cancels the handlers at once; their jobs return without spending the attempt,
    and handlers that do not end are left behind.

    Args:
        url: As for `Service`, like the other arguments that are not named here.
        handlers: The handlers to run while this process is the owner.
        role: ``"auto"`` or ``"producer"``.
        takeover_after: Seconds after which an owner without a sign of life is replaced.
        drain_timeout: How long running handlers get at the end, seconds.
        shutdown: Another way to stop.
        handle_signals: Install handlers for SIGTERM and SIGINT while this runs. Only the main
            thread can; elsewhere pass False and use `shutdown`.
        options: Options of `Queue.open`.

    Raises:
        TaqubaError: The store cannot be opened, by this process or any other.
    """
    service = Service(
        url,
        handlers,
        role=role,
        takeover_after=takeover_after,
        drain_timeout=drain_timeout,
        **options,
    )
    interrupt = service._ownership.interrupt  # pyright: ignore[reportPrivateUsage] - its own
    async with stopping(shutdown, interrupt, handle_signals=handle_signals) as stop:
        await service.run(stop)
