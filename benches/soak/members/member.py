"""One member of a service, until it is told to stop, or killed.

    python -m benches.soak.members.member FOLDER NUMBER ROLE PLAN

Reads lines: ``stop``; ``enough``, to enqueue nothing more; ``killer MS``, to enqueue a job that
ends its process so many milliseconds after its start. Prints its role whenever that changes, and
``drained`` when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from benches.soak.history import HistoryWriter
from benches.soak.members.plan import (
    ALONG,
    COUNTER,
    ENOUGH,
    EVIDENT,
    HAND,
    KEEP_SECONDS,
    LATE_SHARE,
    MAX_ATTEMPTS,
    OWN,
    PLAIN,
    QUEUES,
    SETTLED,
    STOP,
    Plan,
    content,
    log_of,
    read_content,
)
from taquba import (
    Claim,
    ClaimLost,
    EnqueueRequest,
    EnqueueResult,
    JobRecord,
    LeaseHandle,
    QueueConfig,
    Service,
    SettlementEffects,
    TaqubaError,
    WorkerSpec,
)

T = TypeVar("T")

CONCURRENCY = 8
BATCH = 3
SIZES = (200,) * 20 + (700,) * 8 + (5000,)
OFFLOAD_BYTES = 2048
CONFIG = QueueConfig(
    max_attempts=MAX_ATTEMPTS,
    retry_backoff_base=0.1,
    retry_backoff_max=0.5,
    dead_retention=None,
    keep_done_jobs=KEEP_SECONDS,
)


class Member:
    """What a member does, and how it writes it down."""

    def __init__(self, plan: Plan, number: int, log: HistoryWriter) -> None:
        self.plan = plan
        self.number = number
        self.log = log
        self.random = random.Random(f"{plan.seed}.{number}")
        self.stopping = asyncio.Event()
        self.enough = asyncio.Event()
        self._numbers = 0
        self.service: Service

    def next(self) -> int:
        self._numbers += 1
        return self._numbers

    async def rest(self, mean: float) -> None:
        """Wait, `mean` seconds on average, or until the member stops."""
        try:
            await asyncio.wait_for(self.stopping.wait(), self.random.expovariate(1 / mean))
        except TimeoutError:
            return

    async def ask(
        self,
        name: str,
        call: Awaitable[T],
        show: Callable[[T], Any] | None = None,
        /,
        **asked: Any,
    ) -> T:
        """Make a call, and write down what was asked and what came back."""
        number = self.next()
        self.log.write(id=number, call=name, role=self.service.role, asked=asked)
        try:
            result = await call
        except TaqubaError as error:
            permanent = getattr(error, "permanent", True)
            self.log.write(
                id=number, error=type(error).__name__, permanent=permanent, why=str(error)
            )
            raise
        self.log.write(id=number, result=None if show is None else show(result))
        return result

    # -- jobs -------------------------------------------------------------------------------

    def begin(
        self, job: Claim | JobRecord, claimed: float | None = None
    ) -> tuple[int, dict[str, Any]]:
        what = read_content(job.payload)
        run = self.next()
        self.log.write(
            run=run,
            job=job.id,
            queue=job.queue,
            tag=what["tag"],
            kind=what["kind"],
            whole=what["whole"],
            attempts=job.attempts,
            suspect=job.suspect,
            claimed=claimed,
        )
        return run, what

    def effects(self, job_id: str, run: int) -> SettlementEffects:
        return SettlementEffects(kv_writes={f"{SETTLED}{job_id}/{self.number}.{run}": b""})

    async def handle(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
        run, what = self.begin(job)
        how = "cancelled"
        try:
            await self.do(job, run, what["kind"], what["how"])
            how = "done"
        except RuntimeError:
            how = "raised"
            raise
        finally:
            self.log.write(ended=run, how=how)
        return None if job.queue == PLAIN else self.effects(job.id, run)

    async def do(self, job: JobRecord, run: int, kind: str, how: float) -> None:
        if kind == "die":
            await asyncio.sleep(how)
            self.log.write(event="dies", run=run)
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "block" and job.attempts == 1:
            self.log.write(event="blocks", seconds=how)
            time.sleep(how)  # noqa: ASYNC251 - on purpose
        elif kind == "fail" and job.attempts == 1:
            raise RuntimeError("no luck")
        else:
            await asyncio.sleep(how)

    def some_job(self) -> tuple[str, float]:
        """A kind of job, and for how many seconds it does what it does."""
        draw, lease = self.random.random(), self.plan.lease
        if draw < self.plan.killers:
            return "die", self.random.choice((0, 0.01, 0.1))
        if draw < 0.01:
            return "long", self.random.uniform(1.2, 2) * lease
        if draw < 0.02:
            return "fail", 0
        if draw < 0.0205:
            return "block", 1.5 * lease
        return "quick", self.random.expovariate(50)

    # -- what it asks for -------------------------------------------------------------------

    async def produce(self) -> None:
        mean = self.plan.members / self.plan.rate
        while not (self.enough.is_set() or self.stopping.is_set()):
            await self.rest(mean)
            await self.enqueue(*self.some_job())

    async def enqueue(self, kind: str, how: float) -> None:
        """Enqueue a job in one of the ways that there are."""
        tag = f"{self.number}.{self.next()}"
        queue = self.random.choice((EVIDENT, EVIDENT, PLAIN, PLAIN, HAND))
        if kind in ("die", "long", "block", "fail"):
            queue = self.random.choice((EVIDENT, PLAIN))
        payload = content(tag, kind, how, self.random.choice(SIZES))
        way = self.random.choice(("fresh", "once", "owned", "batch"))
        asked: dict[str, Any] = {"tags": [tag], "kind": kind, "queue": queue, "way": way}
        try:
            if way == "fresh":
                one = self.service.enqueue(queue, payload)
                await self.ask("enqueue", one, lambda found: [[*found]], **asked)
            elif way == "batch":
                await self.enqueue_batch(queue, payload, asked)
            else:
                await self.enqueue_twice(queue, payload, asked)
        except TaqubaError:
            # It may have been enqueued.
            return

    async def enqueue_batch(self, queue: str, payload: bytes, asked: dict[str, Any]) -> None:
        """Jobs that land together with an entry, or not at all."""
        tag = asked["tags"][0]
        more = [f"{self.number}.{self.next()}" for _ in range(BATCH - 1)]
        requests = [
            EnqueueRequest(queue, payload, kv_writes={f"{ALONG}{tag}": b""}),
            *(EnqueueRequest(queue, content(other, "quick", 0, 200)) for other in more),
        ]
        call = self.service.enqueue_batch(requests)
        asked = {**asked, "tags": [tag, *more]}
        await self.ask("enqueue", call, lambda found: [[*one] for one in found], **asked)

    async def enqueue_twice(self, queue: str, payload: bytes, asked: dict[str, Any]) -> None:
        """A name of its own makes one job, however often it is asked for."""
        name = asked["tags"][0] if asked["way"] == "once" else self.service.next_job_id()
        asked["name"] = name
        for _ in range(2):
            call: Awaitable[EnqueueResult]
            if asked["way"] == "once":
                call = self.service.enqueue(queue, payload, idempotency_key=name)
            else:
                call = self.service.enqueue(queue, payload, job_id=name)
            try:
                await self.ask("enqueue", call, lambda found: [[*found]], **asked)
            except TaqubaError as error:
                if getattr(error, "permanent", True):
                    raise

    async def claim_by_hand(self) -> None:
        while not self.stopping.is_set():
            begun = time.monotonic()
            try:
                call = self.service.claim_batch(HAND, 2, lease=self.plan.lease, wait=0.5)
                found = await self.ask("claim", call, lambda some: [claim.id for claim in some])
            except TaqubaError:
                await self.rest(0.1)
                continue
            for claim in found:
                await self.settle(claim, begun)

    async def settle(self, claim: Claim, claimed: float) -> None:
        run, _ = self.begin(claim, claimed)
        await asyncio.sleep(self.random.expovariate(100))
        call = self.service.ack(claim, self.effects(claim.id, run))
        try:
            await self.ask("ack", call, job=claim.id, run=run)
        except TaqubaError as error:
            how = "lost" if isinstance(error, ClaimLost) else "raised"
        else:
            how = "done"
        self.log.write(ended=run, how=how)
        if how != "raised":
            try:
                await self.ask("late", self.service.ack(claim), job=claim.id)
            except TaqubaError:
                return

    async def count(self) -> None:
        """Count up an entry that all members count up."""
        while not self.stopping.is_set():
            await self.rest(0.3)
            try:
                value = await self.service.kv_get(COUNTER)
                number = int(value or b"0") + 1
                put = self.service.kv_compare_put(COUNTER, value, b"%d" % number)
                await self.ask("count", put, bool, to=number)
            except TaqubaError:
                continue

    async def look(self) -> None:
        """Calls whose answers are known, whoever carries them out."""
        service, key = self.service, f"{OWN}{self.number}"
        while not self.stopping.is_set():
            await self.rest(0.5)
            value = b"%d" % self.next()
            for name, make in (
                ("kv_put", lambda value=value: service.kv_put(key, value)),
                ("kv_get", lambda: service.kv_get(key)),
                ("kv_compare_put wrong", lambda: service.kv_compare_put(key, b"no", b"x")),
                ("get_job none", lambda: service.get_job("no-such-job")),
                ("requeue_dead none", lambda: service.requeue_dead("no-such-job")),
                ("cancel none", lambda: service.cancel("no-such-job")),
                ("stats", lambda: service.stats("no-such-queue")),
                ("invalid", lambda: service.stats("")),
            ):
                if self.stopping.is_set():
                    return
                try:
                    await self.ask(name, make(), _shown, value=value.decode())
                except TaqubaError:
                    continue

    # -- what it sees -----------------------------------------------------------------------

    async def watch(self) -> None:
        """Write down the role, and when nothing was done for long."""
        role = None
        late = self.plan.lease / LATE_SHARE
        before = time.monotonic()
        while True:
            if self.service.role != role:
                role = self.service.role
                self.log.write(event="role", role=role)
                print(role, flush=True)
            await asyncio.sleep(0.02)
            now = time.monotonic()
            if now - before > late:
                self.log.write(event="late", since=before)
            before = now

    async def until_drained(self) -> None:
        await self.enough.wait()
        idle = 0
        while idle < 3:
            await asyncio.sleep(0.3)
            try:
                stats = [await self.service.stats(name) for name in QUEUES]
            except TaqubaError:
                idle = 0
                continue
            busy = sum(one.pending + one.scheduled + one.claimed for one in stats)
            idle = 0 if busy else idle + 1
        print("drained", flush=True)

    async def obey(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while not self.stopping.is_set():
            word, *rest = (await reader.readline()).split() or [STOP]
            if word == STOP:
                self.stopping.set()
            elif word == ENOUGH:
                self.enough.set()
            else:
                await self.enqueue("die", int(rest[0]) / 1000)

    async def take_part(self, role: Literal["auto", "worker"]) -> None:
        workers = [
            WorkerSpec(name, self.handle, concurrency=CONCURRENCY, lease=self.plan.lease)
            for name in (EVIDENT, PLAIN)
        ]
        self.service = Service(
            self.plan.url,
            workers,
            role=role,
            default_config=CONFIG,
            payload_offload_threshold=OFFLOAD_BYTES,
            fsync=False,
            reaper_interval=0.5,
        )
        async with self.service:
            always = [asyncio.create_task(self.watch()), asyncio.create_task(self.until_drained())]
            async with asyncio.TaskGroup() as group:
                obeying = group.create_task(self.obey())
                for actor in (self.produce, self.claim_by_hand, self.count, self.look):
                    group.create_task(actor())
                await self.stopping.wait()
                obeying.cancel()
        for task in always:
            task.cancel()
        self.log.write(event="left")


def _shown(result: object) -> Any:
    if result is None or isinstance(result, bool | str):
        return result
    return result.decode() if isinstance(result, bytes) else str(result)


def main(folder: str, number: str, role: Literal["auto", "worker"], plan: str) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    log = HistoryWriter(log_of(Path(folder), int(number)))
    log.write(event="started", role=role)
    asyncio.run(Member(Plan.load(plan), int(number), log).take_part(role))


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
