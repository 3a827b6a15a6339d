"""`Service`: one of the processes that share a store, and a handle on it in each of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import (
    Any,
    Concatenate,
    Final,
    Literal,
    NamedTuple,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    cast,
    get_args,
)

import anyio

from taquba._interface.store import Store
from taquba._line.identity import this_process
from taquba._line.joining import MemberInfo
from taquba._line.methods import parameters_of
from taquba._model import validate
from taquba._model.batch import MAX_BATCH_JOBS, check_entries
from taquba._model.clock import Clock
from taquba._model.codec import decode_store_id
from taquba._model.errors import (
    ClaimLost,
    InboxNotOpen,
    InvalidArgument,
    OwnerUnreachable,
    ProducerClosed,
    QueueClosed,
    TaqubaError,
)
from taquba._model.ids import IdGenerator
from taquba._model.options import (
    EnqueueOptions,
    EnqueueRequest,
    InboxConfig,
    ProducerOptions,
    QueueConfig,
    check_entries_of,
)
from taquba._model.own_tasks import was_cancelled
from taquba._model.place import Place, refuse
from taquba._model.records import (
    EnqueueResult,
)
from taquba._model.resources import Opening
from taquba._model.validate import Duration, KvKey
from taquba._objects.candidates import stand_for
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.location import StoreLocation, make_folder
from taquba._objects.payloads import PayloadReads
from taquba._objects.space import ObjectSpace
from taquba._objects.user_objects import Objects
from taquba._producer.producer import Producer, connect, job_id_of, send
from taquba._queue.open_options import OpenSettings, OwnerOptions
from taquba._queue.opening import find_store
from taquba._queue.owner import Owner, owner_of
from taquba._queue.queue import Queue, open_with
from taquba._service.asking import AskingStore
from taquba._service.child import Orders
from taquba._service.held import MemberClaim
from taquba._service.lazily import Lazily
from taquba._service.member import Member
from taquba._service.member_objects import MemberObjects
from taquba._service.ownership import Ownership
from taquba._service.parts import Part, loop_of
from taquba._service.processes import Processes, Program
from taquba._service.remote import SLOWEST_ANSWER_SECONDS, MovedHere, RemoteOwner
from taquba._service.settings import Handlers, check_sending, worker_specs
from taquba._telemetry.choosing import instrument
from taquba._worker.shutdown import Shutdown, check_shutdown
from taquba._worker.source import JobSource
from taquba._worker.worker import WorkerSpec
from taquba._worker.workers import Loop, run_together, run_workers
from taquba.extending import RunsInBackground

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")
Q = ParamSpec("Q")

RoleChoice = Literal["auto", "worker", "producer"]
Role = Literal["owner", "worker", "producer"]


class Service(AskingStore, RunsInBackground):
    """One of several processes that share a store.

    Each of them is a handle on the store, with all operations, and runs handlers. One of them at a
    time is the owner: it has the store open, and makes all decisions. When it ends or dies, another
    takes its place. Use it in every process of a web server, once it has forked:

        async with Service("s3://bucket/prefix", {"mail": send_mail}) as service:
            await service.enqueue("mail", b"hello")

    At the end of the block the process takes no more jobs, lets running handlers finish, and an
    owner hands over. An error that ends a service early, such as a store with another layout, is
    raised by every call and at the end of the block.

    The other processes reach the owner through its socket, so they are on its machine. A call waits
    for an owner for up to `call_timeout`, and then raises `OwnerUnreachable`. If the owner dies
    during a call that must not be repeated, it raises a `StoreError` that is not permanent: whether
    it was carried out is unknown.

    What runs in a process goes on when the owner ends. The next owner adopts it: it is not run a
    second time, and spends no attempt. The jobs of a process that dies are pending again at once.
    Each runs alone the next time, for the case that it was the reason.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        handlers: Handlers = (),
        *,
        role: RoleChoice = "auto",
        call_timeout: Duration = 30,
        takeover_after: Duration = 5,
        drain_timeout: Duration | None = None,
        **options: Unpack[OwnerOptions],
    ) -> None:
        """Create the service; nothing happens before it is entered or run.

        Args:
            url: Where the store is: a local folder or a bucket, as for `Queue.open`.
            handlers: The handlers that this process runs: a mapping of queue names to handlers, of
                which each runs up to 8 jobs at a time, or a list of `WorkerSpec`. Processes may
                have different ones: each gets only jobs of its own queues. A `WorkerSpec` with
                `processes` runs in that many child processes, which take part as workers.
            role: ``"auto"`` runs handlers and stands for election, ``"worker"`` runs handlers and
                is never the owner, ``"producer"`` does neither.
            call_timeout: How long a call waits for an owner where there is none, seconds.
            takeover_after: For buckets: how many seconds an owner must give no sign of life before
                another process takes its place. An owner gives three signs in that time, each a
                write to the store. In a folder the operating system reports the end of an owner at
                once.
            drain_timeout: How long running handlers get at the end, seconds; None waits for them.
            options: How an owner opens the store: options of `Queue.open`.
        """
        if role not in get_args(RoleChoice):
            raise InvalidArgument(f"role must be 'auto', 'worker' or 'producer'; got {role!r}")
        takeover_ms = validate.duration_ms(takeover_after, "takeover_after", minimum=100)
        call_ms = validate.duration_ms(call_timeout, "call_timeout")
        drain_ms = validate.optional_duration_ms(drain_timeout, "drain_timeout")
        self._location = StoreLocation.parse(url)

        if options.setdefault("inbox", InboxConfig()) is False:
            raise InvalidArgument(
                "the other processes of a service may enqueue through its inbox: leave inbox=False "
                "out, or pass an InboxConfig"
            )

        specs = worker_specs(handlers)
        self._workers = [spec for spec in specs if not spec.processes]
        self._processes = Processes(
            _programs(
                self._location, specs, options, call_timeout=call_timeout, drain=drain_timeout
            ),
            None if drain_ms is None else drain_ms / 1000,
        )
        self._stands = role == "auto"
        self._works = role != "producer"
        self._drain_timeout = drain_timeout
        self._settings = OpenSettings.checked(
            self._location, producer_socket=True, take_over=True, **options
        )
        self._ids = IdGenerator(self._settings.clock)
        self._call_seconds = call_ms / 1000
        self._takeover_seconds = takeover_ms / 1000
        self._set_up()
        self._parts: tuple[Loop, ...] = ()
        self._made: list[weakref.ref[object]] = []
        self._working: asyncio.Task[None] | None = None
        self._interrupted = False
        self._begun = False
        self._objects = MemberObjects(self._opened_objects)
        self._place: Place | None = None
        self._refusal: TaqubaError | None = InvalidArgument(
            "this Service is not running yet: use it with `async with`"
        )

    def _set_up(self) -> None:
        """Make what belongs to one run of this service, in one process and one event loop."""
        self._producer = Lazily(self._connect, Producer.close)
        self._space = Lazily(self._open_space, lambda opened: opened.space.close())
        self._remote = RemoteOwner(self._location, self._call_seconds, self._introduction())
        self._member = Member(
            self,
            self._remote,
            self._settings.clock,
            enter=self._enter,
            check=self._check,
            payloads=self._payloads,
        )
        self._ownership = Ownership(
            stand_for(self._location, self._takeover_seconds),
            self._location,
            self._open_queue,
            self._member,
            pause_seconds=self._takeover_seconds,
        )

    @property
    def role(self) -> Role:
        """The current role of this process."""
        if self._ownership.queue is not None:
            return "owner"
        return "worker" if self._works else "producer"

    @property
    def clock(self) -> Clock:
        return self._settings.clock

    @property
    def objects(self) -> Objects:
        queue = self._ownership.queue
        return self._objects if queue is None else queue.objects

    def config(self, queue: str) -> QueueConfig:
        """Return the settings with which this process would open a queue, if it were the owner."""
        return self._settings.config_of(validate.queue_name(queue))

    # -- enqueue ----------------------------------------------------------------------------

    async def enqueue(  # pyright: ignore[reportIncompatibleMethodOverride] - one option more
        self, queue: str, payload: bytes, **options: Unpack[ProducerOptions]
    ) -> EnqueueResult:
        """Add a job; durable when this returns. See `Queue.enqueue`.

        Without an owner on this machine the request goes through the store's inbox, unless it has
        a `job_id` or a `dedup_key`, which an owner must look up.

        Args:
            queue: Name of the queue.
            payload: The job's content; the whole request has at most 16 MiB.
            options: When it may start, its priority and so on; see `ProducerOptions`. An
                `idempotency_key` that is given again in the queue makes no second job.

        Returns:
            The job's id, and whether it is new; a request in the inbox counts as new.
        """
        await self._enter()
        key = options.pop("idempotency_key", None)
        if key is not None:
            options["job_id"] = job_id_of(queue, key, options.get("job_id"))
        request = EnqueueRequest(queue, payload, **cast("EnqueueOptions", options))
        (result,) = await self._enqueue([request], once=key is not None)
        return result

    async def enqueue_batch(
        self,
        requests: Iterable[EnqueueRequest],
        *,
        kv_expected: Mapping[KvKey, bytes | None] | None = None,
    ) -> list[EnqueueResult]:
        await self._enter()
        batch = list(islice(requests, MAX_BATCH_JOBS + 1))
        for request in batch:
            validate.instance(request, EnqueueRequest, "each request")
        return await self._enqueue(batch, once=False, expected=kv_expected) if batch else []

    async def _enqueue(
        self,
        requests: Sequence[EnqueueRequest],
        *,
        once: bool,
        expected: Mapping[KvKey, bytes | None] | None = None,
    ) -> list[EnqueueResult]:
        """Enqueue requests that were begun; `once` says that their ids stand for one job each."""
        telemetry = self._member.telemetry
        if telemetry is None or self._ownership.queue is not None:
            return await self._pass_on(requests, once, expected)

        async def carried() -> list[EnqueueResult]:
            return await self._pass_on(telemetry.carried(requests), once, expected)

        return await telemetry.sending(requests, carried())

    async def _pass_on(
        self,
        requests: Sequence[EnqueueRequest],
        once: bool,
        expected: Mapping[KvKey, bytes | None] | None,
    ) -> list[EnqueueResult]:
        if expected:
            # Only an owner can look.
            return await self._do(Store.enqueue_batch, requests, kv_expected=expected)
        fresh = self._ownership.queue is None and all(map(_is_fresh, requests))
        if (once or fresh) and len(requests) <= MAX_BATCH_JOBS:
            check_entries(requests)
            check_entries_of(requests)
            return await send(await self._sender(), requests, self._ids)
        return await self._do(Store.enqueue_batch, requests)

    async def _sender(self) -> Producer:
        try:
            return await self._producer.get()
        except InboxNotOpen as error:
            # The owner may start last.
            try:
                await self._remote.store_id()
            except OwnerUnreachable:
                raise error from None
            return await self._producer.get()

    def next_job_id(self) -> str:
        self._check()
        queue = self._ownership.queue
        return self._ids.next() if queue is None else queue.next_job_id()

    async def _do(
        self,
        method: Callable[Concatenate[Store, Q], Awaitable[T]],
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T:
        """Carry out a method of the handle, here or in the process of the owner."""
        await self._enter()
        name = method.__name__
        bound: dict[str, object] | None = None
        while True:
            queue = self._ownership.queue
            if queue is not None:
                here = [_at(owner_of(queue), argument) for argument in args]
                try:
                    return cast("T", await getattr(queue, name)(*here, **kwargs))
                except QueueClosed:
                    # This process hands over: its successor carries it out.
                    await self._enter()
            if bound is None:
                bound = parameters_of(name).bind(args, kwargs)
            try:
                return cast("T", await self._remote.call(name, bound))
            except MovedHere:
                # This process is about to be the owner.
                await asyncio.sleep(0)

    async def run(self, shutdown: Shutdown | None = None) -> None:
        """Take part until `shutdown` is set, and then hand over to others.

        Raises:
            TaqubaError: The store cannot be opened, by this process or any other.
        """
        check_shutdown(shutdown)
        stop = asyncio.Event() if shutdown is None else shutdown
        refusal: TaqubaError = ProducerClosed()
        try:
            await self._begin()
            await self._take_part(stop)
        except TaqubaError as error:
            refusal = error
            raise
        finally:
            self._begun = False
            self._member.close()
            self._refusal = refusal
            await self._disconnect()

    async def _take_part(self, stop: Shutdown) -> None:
        """Run handlers until `stop` is set; hand over when they have ended."""
        leaving = asyncio.Event()
        self._interrupted = False
        self._working = working = asyncio.create_task(self._work(stop), name="taquba-workers")
        standing = asyncio.create_task(
            self._ownership.stand(leaving) if self._stands else _wait_for(leaving),
            name="taquba-ownership",
        )
        connecting = asyncio.create_task(self._remote.stay_connected(), name="taquba-connection")
        try:
            parts: set[asyncio.Task[None]] = {working, standing, connecting}
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
                for part in (standing, connecting):
                    if part.cancelled():
                        raise was_cancelled(part)
                    if part.done():
                        part.result()
            leaving.set()
            await asyncio.wait({standing})
            await standing
            if not working.cancelled():
                working.result()
            elif not self._interrupted:
                raise was_cancelled(working)
        finally:
            for task in (working, connecting, standing):
                task.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([task])

    async def _work(self, stop: Shutdown) -> None:
        loops = [("taquba-part", part) for part in self._parts]
        if self._works and self._workers:
            loops.append(("taquba-handlers", self._run_handlers))
        running = self._processes.running(stop) if self._works else contextlib.nullcontext()
        async with running:
            await run_together(loops, stop, handle_signals=False)

    async def _run_handlers(self, stop: Shutdown) -> None:
        await run_workers(
            self,
            *self._workers,
            shutdown=stop,
            drain_timeout=self._drain_timeout,
            handle_signals=False,
        )

    def _with_parts(self, parts: Iterable[Part]) -> None:
        """Have parts of the program run in this process, once the service runs."""
        self._parts = tuple(map(loop_of, parts))

    async def _run_as_told(self, orders: Orders) -> None:
        """Run in a child process."""
        orders.on_interrupt.append(self._interrupt)
        await self.run(orders.stop)

    def _interrupt(self) -> None:
        """Cancel running handlers; their jobs return without spending the attempt."""
        if self._working is not None:
            self._interrupted = True
            self._working.cancel()

    def _job_source(self, queue: str, lease_ms: int | None) -> JobSource:
        if lease_ms is None:
            lease_ms = self._settings.config_of(queue).policy().lease_ms
        return self._member.source(queue, lease_ms)

    def _note_part(self, part: object, instead_of: object) -> None:
        self._made = [made for made in self._made if made() not in (None, instead_of)]
        self._made.append(weakref.ref(part))

    def _made_parts(self) -> list[Any]:
        """The parts of the program that were made for this service, as far as they are left."""
        return [part for made in self._made if (part := made()) is not None]

    @property
    def _runners(self) -> dict[str, object]:
        return self._member.runners

    def _handlers(self, queue: str) -> Iterable[object]:
        return self._member.handlers(queue)

    @property
    def _member_id(self) -> str:
        return self._remote.about.id

    async def __aenter__(self) -> Self:
        await self._begin()
        return await super().__aenter__()

    async def _begin(self) -> None:
        """Begin to take part, unless the entry of the block has done that."""
        if self._begun:
            return
        self._place = Place("service")
        # It may have been created before a fork, or have run before, in another event loop.
        self._set_up()
        self._refusal = None
        await self._look_at_place()
        self._begun = True

    async def _look_at_place(self) -> None:
        """Refuse a place that cannot be used; one that does not answer now may answer later."""
        settings = self._settings
        url = self._location.url
        self._member.telemetry = await instrument(settings.telemetry, url, settings.clock)
        try:
            await self._find_store()
            await self._producer.get()
        except InboxNotOpen:
            # The owner may start last.
            pass
        except TaqubaError as error:
            if error.permanent:
                self._refusal = error
                raise
            _log.warning("%s does not answer now: %s", url, error)

    async def _find_store(self) -> None:
        location = self._location
        found = await find_store(location)
        if found.database or location.folder is None:
            return
        if self._stands or await asyncio.to_thread(location.folder.exists):
            await asyncio.to_thread(make_folder, location.folder)

    def _introduction(self) -> MemberInfo:
        """This process, under a name that nothing else has."""
        role = "worker" if self._works else "producer"
        return this_process(role, self._settings.clock.time_ms())

    def _open_queue(self) -> Opening[Queue]:
        return open_with(replace(self._settings, about=self._remote.about))

    def _check(self) -> None:
        """Refuse a call from a wrong thread, loop or process, or to a service that does not run."""
        if self._place is not None:
            self._place.check()
        if self._refusal is not None:
            raise self._refusal.again()

    async def _enter(self) -> None:
        """`_check`, at the beginning of a call that is awaited."""
        if self._place is not None:
            self._place.check()
        if self._refusal is not None:
            await refuse(self._refusal.again())

    async def _connect(self) -> Producer:
        if self._stands:
            await self._prepare_inbox()
        # A request that went through the inbox would not be seen by the next call.
        return await connect(
            self._location, self._settings.fsync, self._settings.clock, SLOWEST_ANSWER_SECONDS
        )

    async def _prepare_inbox(self) -> None:
        """Requests put there now will be taken by the first owner, this process or another."""
        inbox = await InboxObjects.open(self._location, fsync=self._settings.fsync)
        try:
            await inbox.prepare()
        finally:
            await inbox.close()

    async def _open_space(self) -> _Space:
        await self._enter()
        queue = self._ownership.queue
        store_id = (
            await self._remote.store_id()
            if queue is None
            else decode_store_id(owner_of(queue).stamp)
        )
        space = await ObjectSpace.open(self._settings.payload_location, fsync=self._settings.fsync)
        return _Space(space, store_id)

    async def _opened_objects(self) -> Objects:
        opened = await self._space.get()
        return Objects(opened.space, opened.store_id, self._check)

    async def _payloads(self) -> PayloadReads:
        opened = await self._space.get()
        return PayloadReads(opened.space, opened.store_id)

    async def _disconnect(self) -> None:
        await self._producer.close()
        await self._remote.close()
        await self._space.close()


class _Space(NamedTuple):
    """The objects of the store."""

    space: ObjectSpace
    store_id: str


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


def _at(owner: Owner, argument: object) -> object:
    """An argument of a call, for the owner in this process."""
    if not isinstance(argument, MemberClaim):
        return argument
    if argument.owner is not owner and argument.lease.state != "over":
        raise ClaimLost(argument.id, "its owner has ended")
    return argument.at(owner)


def _is_fresh(request: EnqueueRequest) -> bool:
    """Whether a request makes a job whatever there is already."""
    return request.job_id is None and request.dedup_key is None


def _programs(
    location: StoreLocation,
    specs: Iterable[WorkerSpec],
    options: OwnerOptions,
    *,
    call_timeout: Duration,
    drain: Duration | None,
) -> list[Program]:
    """What the child processes of a service run."""
    programs: list[Program] = []
    given: dict[str, Any] = dict(options)
    for spec in specs:
        if spec.processes:
            check_sending(spec, given)
            if given.get("payload_url") is not None:
                given["payload_url"] = _absolute(StoreLocation.parse(given["payload_url"]))
            work = partial(
                _run_alone,
                _absolute(location),
                replace(spec, processes=None),
                call_timeout,
                drain,
                cast("OwnerOptions", given),
            )
            programs.append(Program.pack(f"queue {spec.queue!r}", work, spec.processes))
    return programs


def _absolute(location: StoreLocation) -> str:
    """The URL of a location, for a process with another working directory."""
    return location.url if location.folder is None else str(location.folder)


async def _run_alone(
    url: str,
    spec: WorkerSpec,
    call_timeout: Duration,
    drain_timeout: Duration | None,
    options: OwnerOptions,
    orders: Orders,
) -> None:
    """Run one worker loop; in a process that was started for it."""
    service = Service(
        url,
        [spec],
        role="worker",
        call_timeout=call_timeout,
        drain_timeout=drain_timeout,
        **options,
    )
    await service._run_as_told(orders)  # pyright: ignore[reportPrivateUsage] - its own
