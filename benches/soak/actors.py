"""What an owner's tasks do, and how they write it down.

Where a call can have effects, an actor lets it write an entry of its own, its ledger, in the same
commit: the id of the call. After a call whose outcome is unknown, and at the start of a life, it
reads the ledger before it goes on. So what had its effect and what had not is known of every such
call, whatever happened to its answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from benches.soak.history import HistoryWriter
from benches.soak.plan import (
    COUNTER,
    FOLLOW,
    FOLLOW_PREFIX,
    LEASE_SECONDS,
    LEDGER,
    MAILS,
    ORDERS,
    QUEUES,
    TASKS,
    Plan,
)
from taquba import (
    Claim,
    ClaimLost,
    EnqueueRequest,
    EnqueueResult,
    InvalidState,
    JobNotFound,
    JobRecord,
    KvKey,
    LeaseHandle,
    PayloadMissing,
    PermanentFailure,
    Queue,
    SettlementEffects,
    StoreError,
    run_worker,
)

T = TypeVar("T")

PRODUCERS = 8
WORKERS = {ORDERS: 8, MAILS: 4, FOLLOW: 4}
TASK_CONCURRENCY = 8
MOST_PENDING = 2000
DEDUP_KEYS = 10
SIZES = (64,) * 20 + (600,) * 8 + (4000,)
PRIORITIES = (100, 1000, 1000, 1000, 10_000)

Ledger = Mapping[KvKey, bytes]
"""What a call must write along with its effects."""


@dataclass
class Workplace:
    """What the actors of one owner share."""

    plan: Plan
    life: int
    queue: Queue
    history: HistoryWriter
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    backlog: int = 0
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=100))

    async def rest(self, mean: float) -> None:
        """Wait, `mean` seconds on average, or until the owner stops."""
        seconds = random.expovariate(1 / mean)
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return


def content(job_id: str, size: int) -> bytes:
    """The payload of a job."""
    return (f"{job_id}:".encode() * (size // len(job_id) + 1))[:size]


def seen(job: Claim | JobRecord) -> list[Any]:
    """What the checker needs to know of a job that was handed out."""
    try:
        payload = job.payload
    except PayloadMissing:
        return [job.id, job.priority, job.attempts, None, job.suspect]
    intact = payload == content(job.id, len(payload))
    return [job.id, job.priority, job.attempts, len(payload) if intact else None, job.suspect]


class Actor:
    """Makes one call at a time, and writes down each of them."""

    def __init__(self, place: Workplace, name: str) -> None:
        self.place = place
        self.queue = place.queue
        self.name = name
        self._calls = 0

    def next_id(self) -> str:
        self._calls += 1
        return f"{self.place.life}.{self.name}.{self._calls}"

    async def call(
        self,
        name: str,
        call: Awaitable[T],
        show: Callable[[T], Any] | None = None,
        *,
        call_id: str | None = None,
        **asked: Any,
    ) -> T:
        write = self.place.history.write
        call_id = call_id or self.next_id()
        write(id=call_id, call=name, asked=asked)
        try:
            result = await call
        except BaseException as error:
            write(id=call_id, error=type(error).__name__)
            raise
        write(id=call_id, result=None if show is None else show(result))
        return result

    async def prove(
        self,
        name: str,
        make: Callable[[Ledger], Awaitable[T]],
        show: Callable[[T], Any] | None = None,
        **asked: Any,
    ) -> T | None:
        """Make a call that writes the ledger; None when its outcome had to be looked up."""
        call_id = self.next_id()
        call = make({LEDGER + self.name: call_id.encode()})
        try:
            return await self.call(name, call, show, call_id=call_id, **asked)
        except StoreError as error:
            if error.permanent:
                raise
            await self.look_up()
            return None

    async def look_up(self) -> None:
        """Read the ledger when what it says is final.

        Commits become durable in order, so an acknowledged one stands behind all before it.
        """
        while True:
            try:
                await self.call("barrier", self.queue.kv_put(f"barrier/{self.name}", b""))
                await self.read()
            except StoreError as error:
                if error.permanent:
                    raise
            else:
                return

    async def read(self) -> None:
        ledger = self.queue.kv_get(LEDGER + self.name)
        await self.call("read", ledger, lambda value: value and value.decode())


class Producer(Actor):
    async def run(self) -> None:
        await self.look_up()
        place = self.place
        while not place.stopping.is_set():
            height = place.plan.rate * place.plan.load_at(time.monotonic())
            await place.rest(PRODUCERS / height)
            if place.backlog < MOST_PENDING and not place.stopping.is_set():
                await self.produce()

    async def produce(self) -> None:
        draw = random.random()
        if draw < 0.1:
            requests = [self.request() for _ in range(random.randrange(2, 9))]
            await self.enqueue(requests)
        elif draw < 0.25:
            key = f"key{random.randrange(DEDUP_KEYS)}"
            delay = random.choice((None, 1))
            await self.enqueue([self.request(ORDERS, dedup_key=key, delay=delay)])
        elif draw < 0.35:
            await self.enqueue([self.request(delay=random.uniform(0.05, 3))])
        else:
            await self.enqueue([self.request()])

    def request(self, name: str | None = None, **options: Any) -> EnqueueRequest:
        job_id = self.queue.next_job_id()
        return EnqueueRequest(
            name or random.choice((ORDERS, ORDERS, MAILS, TASKS)),
            content(job_id, random.choice(SIZES)),
            job_id=job_id,
            priority=random.choice(PRIORITIES),
            **options,
        )

    async def enqueue(self, requests: list[EnqueueRequest]) -> None:
        jobs = [
            [r.job_id, r.queue, r.priority, len(r.payload), r.delay is not None, r.dedup_key]
            for r in requests
        ]

        def call(ledger: Ledger) -> Awaitable[list[EnqueueResult]]:
            first, *rest = requests
            return self.queue.enqueue_batch([replace(first, kv_writes=ledger), *rest])

        found = await self.prove(
            "enqueue", call, lambda results: [[*r] for r in results], jobs=jobs
        )
        self.place.recent += [result.id for result in found or ()]


class HandWorker(Actor):
    """Claims, and settles each claim."""

    def __init__(self, place: Workplace, name: str, queue_name: str) -> None:
        super().__init__(place, name)
        self.works_on = queue_name

    async def run(self) -> None:
        await self.look_up()
        while not self.place.stopping.is_set():
            if not await self.queue.wait_for_jobs_on(self.works_on, timeout=0.5):
                continue
            limit = random.choice((1, 1, 1, 4))
            call_id = self.next_id()
            try:
                claims = await self.call(
                    "claim",
                    self.queue.claim_batch(self.works_on, limit, lease=LEASE_SECONDS),
                    lambda found: [seen(claim) for claim in found],
                    call_id=call_id,
                    queue=self.works_on,
                )
            except StoreError as error:
                if error.permanent:
                    raise
                await self.place.rest(0.1)
                continue
            for claim in claims:
                await self.work_on(claim, call_id)

    async def work_on(self, claim: Claim, claimed_by: str) -> None:
        draw = random.random()
        await asyncio.sleep(LEASE_SECONDS + 1 if draw > 0.997 else random.expovariate(100))
        try:
            if draw < 0.07:
                await self.settle(
                    "nack",
                    claim,
                    claimed_by,
                    lambda ledger: self.queue.nack(claim, "no luck", effects(ledger)),
                    lambda outcome: "retried" if outcome.retried else "dead",
                )
            elif draw < 0.09:
                await self.settle(
                    "dead_letter",
                    claim,
                    claimed_by,
                    lambda ledger: self.queue.dead_letter(claim, "hopeless", effects(ledger)),
                )
            else:
                await self.settle(
                    "ack", claim, claimed_by, lambda ledger: self.queue.ack(claim, effects(ledger))
                )
        except ClaimLost:
            return

    async def settle(
        self,
        name: str,
        claim: Claim,
        claimed_by: str,
        make: Callable[[Ledger], Awaitable[T]],
        show: Callable[[T], Any] | None = None,
    ) -> None:
        # The claim is named by its call: the job may be claimed again by a later one.
        await self.prove(name, make, show, job=claim.id, claim=claimed_by)


def effects(ledger: Ledger) -> SettlementEffects:
    return SettlementEffects(kv_writes=ledger)


class TaskWorker(Actor):
    """`run_worker`, whose handlers return a follow-up."""

    async def run(self) -> None:
        while not self.place.stopping.is_set():
            try:
                await run_worker(
                    self.queue,
                    TASKS,
                    self.handle,
                    concurrency=TASK_CONCURRENCY,
                    lease=LEASE_SECONDS,
                    shutdown=self.place.stopping,
                )
            except StoreError as error:
                if error.permanent:
                    raise
                await self.place.rest(0.1)

    async def handle(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return await self.call("handle", self.do(job), job=seen(job))

    async def do(self, job: JobRecord) -> SettlementEffects:
        draw = random.random()
        await asyncio.sleep(LEASE_SECONDS + 1 if draw > 0.997 else random.expovariate(100))
        if draw < 0.02:
            raise PermanentFailure("hopeless")
        if draw < 0.09:
            raise RuntimeError("no luck")
        follow_up = f"{FOLLOW_PREFIX}{job.id}"
        request = EnqueueRequest(FOLLOW, content(follow_up, 64), job_id=follow_up, priority=1000)
        return SettlementEffects(enqueues=[request])


class Operator(Actor):
    """Cancels, wakes, and requeues what is dead."""

    async def run(self) -> None:
        await self.look_up()
        place = self.place
        while not place.stopping.is_set():
            await place.rest(0.25)
            try:
                if place.recent and random.random() < 0.8:
                    await self.disturb(random.choice(place.recent))
                else:
                    await self.revive(random.choice(QUEUES))
            except StoreError as error:
                if error.permanent:
                    raise

    async def disturb(self, job_id: str) -> None:
        if random.random() < 0.5:
            await self.call("wake", self.queue.wake_scheduled(job_id), str, job=job_id)
            return
        await self.prove(
            "cancel",
            lambda ledger: self.queue.cancel(job_id, effects(ledger)),
            str,
            job=job_id,
        )

    async def revive(self, name: str) -> None:
        page = await self.queue.dead_jobs(name, limit=50, payloads=False)
        for job in page.jobs:
            try:
                await self.call("requeue_dead", self.queue.requeue_dead(job.id), job=job.id)
            except (InvalidState, JobNotFound):
                continue


class Counter(Actor):
    """Counts up one entry that another actor counts up, too."""

    async def run(self) -> None:
        key = f"{COUNTER}both"
        while not self.place.stopping.is_set():
            await self.place.rest(0.3)
            try:
                value = await self.queue.kv_get(key)
                number = int(value or b"0") + 1
                put = self.queue.kv_compare_put(key, value, b"%d" % number)
                await self.call("count", put, bool, counter="both", to=number)
            except StoreError as error:
                if error.permanent:
                    raise


class Watch(Actor):
    """Knows the backlog, and when nothing is left to do."""

    async def run(self) -> None:
        place = self.place
        idle = 0
        while not place.stopping.is_set():
            stats = [await self.queue.stats(name) for name in QUEUES]
            place.backlog = sum(s.pending + s.scheduled for s in stats)
            busy = place.backlog + sum(s.claimed + s.dead for s in stats)
            idle = 0 if busy else idle + 1
            if place.plan.drains and idle == 5:
                place.stopping.set()
            await asyncio.sleep(0.3)


def actors_of(place: Workplace) -> list[Coroutine[Any, Any, None]]:
    """All that an owner does, ready to run."""
    working = [
        HandWorker(place, f"{name}{number}", name).run()
        for name, count in WORKERS.items()
        for number in range(count)
    ]
    always = [
        *working,
        TaskWorker(place, "tasks").run(),
        *(Operator(place, f"operator{number}").run() for number in range(2)),
        Watch(place, "watch").run(),
    ]
    if place.plan.drains:
        return always
    return [
        *always,
        *(Producer(place, f"producer{number}").run() for number in range(PRODUCERS)),
        *(Counter(place, f"counter{number}").run() for number in range(2)),
    ]
