"""The state that all operations of an open queue share, and the few steps they have in common."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from taquba._engine.engine import Engine
from taquba._engine.reads import bounded
from taquba._interface.store import Store
from taquba._line.identity import this_process
from taquba._line.joining import NamedJob
from taquba._memory.alarm import Alarm
from taquba._memory.gate import Gate, HasSuspects
from taquba._memory.leases import Lease, LeaseRegistry
from taquba._memory.locks import HeldLocks, KeyLocks, Moves
from taquba._memory.waiters import Waiters
from taquba._memory.window import NOTHING, Window
from taquba._model import keys, validate
from taquba._model.codec import decode_store_id
from taquba._model.errors import InvalidArgumentType, QueueClosed, StoreError, TaqubaError
from taquba._model.ids import IdGenerator
from taquba._model.options import Policy
from taquba._model.place import Place, refuse
from taquba._model.records import (
    DEAD,
    DONE,
    PENDING,
    SCHEDULED,
    Counters,
    Job,
    JobStatus,
    QueueStats,
)
from taquba._objects.payloads import Payloads
from taquba._objects.space import ObjectSpace
from taquba._objects.user_objects import Objects
from taquba._queue.open_options import OpenSettings
from taquba._rules.transitions import Change
from taquba._store.committer import Committer
from taquba._store.cursors import ClaimCursors
from taquba._store.transaction import Transaction

if TYPE_CHECKING:
    from taquba._telemetry.instrumentation import Instrumentation

CAUTIOUS_MS: Final = 5000
"""How long an owner that follows a death makes its claims durable first, per queue, from its first
claim on. The job that killed the process is among the first jobs again; a job that does so at once
would otherwise never be found claimed."""
_log: Final = logging.getLogger(__name__)

NOT_DUE: Final = 1 << 62
"""A deadline that never comes, in ms."""


Served = Callable[..., Awaitable[object]]
"""A function that others may call at the owner: async, or returning an awaitable."""


class Adopts(Protocol):
    """The claims of a former owner, until it is known which of them go on."""

    @property
    def waits(self) -> bool:
        """Whether `run` must be called."""
        ...

    async def run(self) -> None:
        """Wait for the processes; then give back what none of them has named."""

    async def adopt(self, worker: str, named: Sequence[NamedJob]) -> list[Lease | None]:
        """The claims of the jobs that a process names; None for those it has lost."""
        ...

    def heard_of(self, worker: str) -> None:
        """A process has named all that it runs."""


class OwnersHandle(Store):
    """A handle on a store whose owner is in this process."""

    _owner: Owner


def owner_of(store: Store) -> Owner:
    """The owner behind a handle, for decisions that must be made in its process.

    Raises:
        InvalidArgumentType: It is not a handle on a store, or its owner is in another process.
    """
    if isinstance(store, OwnersHandle):
        return store._owner  # pyright: ignore[reportPrivateUsage] - shown to this module only
    validate.instance(store, Store, "store")
    raise InvalidArgumentType(f"the owner of {store!r} is not in this process: use its Queue")


class QueueState:
    """The owner's state in memory for one queue."""

    def __init__(self, name: str, policy: Policy, horizon: bytes | None) -> None:
        self.name = name
        self.policy = policy
        self.window = Window(horizon)
        self.waiters = Waiters()
        self.suspects: dict[bytes, Job] = {}
        """Pending jobs that must run alone, by their key; the window does not hold them."""
        self.loops = 0
        """The number of worker loops that claim, in any process."""
        self._own_loops = 0
        self.places = 0
        """How many jobs those in this process run at a time."""
        self.handler: object = None
        """The handler of those in this process, which is the same for all of them."""
        self.cautious = False
        """Whether the owner follows a death, and has not yet claimed for long enough."""
        self._cautious_until: int | None = None
        self.sweep_due = {DONE: NOT_DUE, DEAD: NOT_DUE}
        """Wall ms at which the oldest finished job of a kind may be due for removal."""

    @property
    def empty(self) -> bool:
        """Whether no job is pending. False also while it is not known what the store has."""
        return not self.window and self.window.complete and not self.suspects

    @property
    def claimed_from(self) -> bool:
        """Whether somebody waits for jobs, or will return for them."""
        return self.loops > 0 or len(self.waiters) > 0

    def loop_begins(self, handler: object = None, places: int = 0) -> None:
        """A worker loop claims, of this process if its handler and its places are given."""
        self.loops += 1
        if handler is not None:
            self._own_loops += 1
            self.places += places
            self.handler = handler

    def loop_ends(self, handler: object = None, places: int = 0) -> None:
        self.loops -= 1
        if handler is not None:
            self._own_loops -= 1
            self.places -= places
            if not self._own_loops:
                self.handler = None

    def claims_durably(self, now: int) -> bool:
        """Whether a claim at `now`, in monotonic ms, is durable before its job is handed out."""
        if not self.cautious:
            return False
        if self._cautious_until is None:
            self._cautious_until = now + CAUTIOUS_MS
        self.cautious = now < self._cautious_until
        return self.cautious

    def retention_ms(self, status: JobStatus) -> int | None:
        """How long finished jobs of a kind are kept; None means forever."""
        if status is DEAD:
            return self.policy.dead_retention_ms
        # Jobs that an earlier configuration kept are removed if this one keeps none.
        return self.policy.keep_done_ms or 0


class Owner:
    """One open store: engine, committer, and memory. Belongs to one event loop of one process."""

    def __init__(
        self,
        settings: OpenSettings,
        engine: Engine,
        objects: ObjectSpace,
        *,
        stamp: bytes,
        ids: IdGenerator,
        counters: dict[str, Counters],
        cursors: dict[str, bytes],
        telemetry: Instrumentation | None,
    ) -> None:
        clock = settings.clock
        self.location = settings.location
        self.about = settings.about or this_process("owner", clock.time_ms())
        """This process, among those that take part."""
        self.engine = engine
        self.stamp = stamp
        """The row that identifies the owner of the store."""
        store_id = decode_store_id(stamp)
        self.payloads = Payloads(objects, store_id, ids, settings.payload_threshold)
        self.objects = Objects(objects, store_id, self.check)
        self.clock = clock
        self.counters = counters
        self.place = Place()
        self.loop = self.place.loop
        self.ids = ids
        self.random = random.Random()
        self.leases = LeaseRegistry()
        self.gate = Gate(self.leases)
        self.leases.on_quiet = self._quiet
        self.moves = Moves()
        self.locks = KeyLocks()
        self.queues: dict[str, QueueState] = {}
        self.served: dict[str, Served] = {}
        """The calls that packages serve, by name."""
        self.runners: dict[str, object] = {}
        """By queue name: the handler of the runner that has reserved the queue."""
        self.completions: dict[str, list[asyncio.Future[Change | None]]] = {}
        """Callers that wait for the end of a job; they get its outcome, or None if unknown."""
        self.scheduled = Window(
            NOTHING if any(counter.scheduled for counter in counters.values()) else None
        )
        self.refills: dict[Window, asyncio.Future[None]] = {}
        self.scheduler_alarm = Alarm()
        self.reaper_alarm = Alarm()
        self.retention_alarm = Alarm()
        self.orphan_alarm = Alarm()
        self.reaper_due = NOT_DUE
        self.scheduler_due = NOT_DUE
        self.retention_due = NOT_DUE
        self.config = settings.config_of
        self._failure: TaqubaError | None = None
        self.on_failure: set[Callable[[], None]] = set()
        """Called when the store can no longer be written, and when the queue closes."""
        self.on_closing: set[Callable[[], None]] = set()
        """Called when the queue closes, while the store can still be written."""
        self.telemetry = telemetry
        self.take_inbox: Callable[[], Awaitable[int]] | None = None
        """Takes all batches in the inbox, if the queue has one; returns how many jobs are new."""
        self.adoption: Adopts | None = None
        """The claims of the former owner."""
        self.moving: list[Callable[[], bool]] = []
        """Other background activity, for `busy`."""
        self.committer = Committer(
            engine,
            counters,
            flush_interval=settings.flush_seconds,
            on_failure=self.fail,
            on_forsaken=self.forsaken,
            observer=None if telemetry is None else telemetry.metrics,
            on_freed=self.payloads.discard,
            cursors=ClaimCursors(cursors, self._reached),
        )
        if telemetry is not None:
            telemetry.watch(counters, self.pending, engine.requests)
            self.on_failure.add(telemetry.close)
        clock.attach(self.busy)

    def check(self) -> None:
        """Refuse a call from a wrong thread, loop or process, or to a closed or fenced queue."""
        self.place.check()
        if self._failure is not None:
            raise self._failure.again()

    def admits(self) -> bool:
        """Whether a call can be carried out, which otherwise is to `enter`.

        For the calls that are made for every job: it costs less than an ``await``. It refuses a
        call from a wrong thread, loop or process.
        """
        self.place.check()
        return self._failure is None

    async def enter(self) -> None:
        """`check`, at the beginning of a call that is awaited."""
        if not self.admits():
            assert self._failure is not None
            await refuse(self._failure.again())

    async def look(self) -> None:
        """`enter`, for a call whose answer shows everything that was decided before."""
        await self.enter()
        await self.committer.barrier()

    def stats(self, name: str) -> QueueStats:
        """Counters of a queue; all zero for one that was never used."""
        return QueueStats(*self.counters.get(name, Counters()))

    async def lock(self, names: Collection[Hashable]) -> HeldLocks:
        """Take locks; a commit in flight may hold one for as long as the store hangs."""
        free = self.locks.take_free(names)
        if free is not None:
            return free
        return await bounded(self.locks.acquire(names), "waiting for a commit in flight")

    async def dedup_row(self, queue: str, dedup_key: str) -> str | None:
        """Id of the job that holds a dedup key, according to the written rows."""
        row = await self.engine.get(keys.dedup(queue, dedup_key))
        return None if row is None else row.decode()

    def dedup_holder(self, row: str | None, leaving: str | None) -> str | None:
        """The holder of a dedup key, given its row; a key that `leaving` holds counts as free.

        The claim that frees it may be decided, and its job's handler started, but not yet written.
        A decision made now is written after that claim, which may be withdrawn while the caller
        waits.
        """
        free = row is None or row == leaving or self.leases.get(row) is not None
        return None if free else row

    def fail(self, error: TaqubaError) -> None:
        """The store can no longer be written: waiting callers get the error."""
        if self._failure is None:
            self._failure = error
        for state in self.queues.values():
            state.waiters.wake_all()
        for futures in self.completions.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)
        for callback in list(self.on_failure):
            try:
                callback()
            except BaseException:
                # Whatever it is, the other waiting callers must be notified, too.
                _log.exception("a callback for the failure of the store failed")

    def forsaken(self) -> None:
        """Somebody has cancelled tasks of this queue, without which it would only look alive.

        Decisions are still written, and jobs are given back, as long as the event loop runs.
        """
        if self._failure is None:
            why = "its tasks were cancelled, as when the event loop ends"
            self.fail(
                StoreError(f"the queue no longer works: {why}; open it again", permanent=True)
            )

    @property
    def failure(self) -> TaqubaError | None:
        return self._failure

    def closing(self) -> None:
        """Close: from now on every call raises `QueueClosed`, whatever happened before."""
        self.fail(QueueClosed())
        self._failure = QueueClosed()
        for callback in list(self.on_closing):
            callback()

    def busy(self) -> bool:
        """True while this queue has background activity."""
        if self._failure is not None:
            return False
        alarms = (
            self.scheduler_alarm,
            self.reaper_alarm,
            self.retention_alarm,
            self.orphan_alarm,
        )
        return (
            self.committer.busy
            or self.payloads.busy
            or self.engine.under_way > 0
            or any(moves() for moves in self.moving)
            or any(not alarm.sleeping for alarm in alarms)
        )

    def queue(self, name: str) -> QueueState:
        """The state of a queue, made on first use."""
        state = self.queues.get(name)
        if state is None:
            validate.queue_name(name)
            # No counter row: nothing was ever written, so the empty window is complete.
            state = self.add_queue(name, None)
        return state

    def handlers(self, queue: str) -> list[object]:
        """What serves a queue in this process: a runner that has reserved it, worker loops."""
        found = (self.runners.get(queue), self.queue(queue).handler)
        return [handler for handler in found if handler is not None]

    def add_queue(self, name: str, horizon: bytes | None) -> QueueState:
        state = self.queues[name] = QueueState(name, self.config(name).policy(), horizon)
        return state

    def _reached(self, name: str) -> bytes | None:
        return self.queue(name).window.reached()

    def pending(self) -> dict[str, HasSuspects]:
        """What is pending in each queue. May be called from any thread."""
        return {state.name: state for state in list(self.queues.values())}

    def landed(self, changes: Iterable[Change]) -> None:
        """Changes are applied: update memory, and wake waiting callers."""
        for change in changes:
            job, status = change.job, change.status
            if status is PENDING:
                self.add_pending(change.key, job)
            elif status is SCHEDULED:
                self.add_scheduled(change.key, job)
            else:
                if status is DONE or status is DEAD:
                    self._note_finished(job.queue, status)
                for future in self.completions.get(job.id, ()):
                    if not future.done():
                        future.set_result(change)

    def add_pending(self, key: bytes, job: Job) -> None:
        """A row can be claimed (again): give it to a waiting caller."""
        state = self.queue(job.queue)
        if job.suspicion is None:
            state.window.insert(key, job)
        elif state.window.set_aside(key):
            self.gate.add(state, key, job)
        state.waiters.wake()

    def _quiet(self, worker: str | None) -> None:
        """A process holds no job any longer."""
        if self.gate.active:
            self.gate.open(worker)
            self.wake_claimers()

    def wake_claimers(self) -> None:
        """The gate may let jobs pass that it held back before."""
        for state in self.queues.values():
            state.waiters.wake_all()

    def add_scheduled(self, key: bytes, job: Job) -> None:
        """A row can be promoted (again): notify the scheduler if it is the next one."""
        self.scheduled.insert(key, job)
        if keys.scheduled_run_at(key) < self.scheduler_due:
            self.scheduler_alarm.ring()

    def landed_with(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        """Call `landed` when the transaction is applied."""
        transaction.on_applied.append(lambda: self.landed(changes))

    def _note_finished(self, queue: str, status: JobStatus) -> None:
        state = self.queue(queue)
        retention = state.retention_ms(status)
        if retention is not None and state.sweep_due[status] == NOT_DUE:
            self.sweep_by(state, status, self.clock.time_ms() + retention)

    def sweep_by(self, state: QueueState, status: JobStatus, due: int) -> None:
        """Check finished jobs of a kind no later than `due`, in wall ms."""
        if due < state.sweep_due[status]:
            state.sweep_due[status] = due
            if due < self.retention_due:
                self.retention_alarm.ring()

    def add_lease(self, lease: Lease) -> None:
        self.leases.add(lease)
        if lease.expires_at < self.reaper_due:
            self.reaper_alarm.ring()
