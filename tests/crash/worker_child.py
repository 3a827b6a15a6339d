"""Works at full speed on a store, and reports what was acknowledged, until it is killed.

    python worker_child.py STORE LOG SEED FSYNC

Waits for a line on standard input before it opens the store, so that a parent can start it ahead
of time. Each report is one line of the log, written whole after the call it speaks of returned
(or, for an intention, before the call).

Every job brings its own evidence: the commit that enqueues it writes ``born/{id}``, the one that
acknowledges it ``acked/{id}/{claim}``, one that dead-letters it ``dead/{id}/{claim}``, one that
cancels it ``cancelled/{id}``; ``{claim}`` tells the claims of a job apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections import deque

from taquba import (
    CancelOutcome,
    Claim,
    ClaimLost,
    EnqueueRequest,
    EnqueueResult,
    Queue,
    QueueConfig,
    SettlementEffects,
    StoreFenced,
    WakeOutcome,
)
from taquba._store import cursors

CONFIG = QueueConfig(max_attempts=4, retry_backoff_base=0.01, retry_backoff_max=0.05)
QUEUES = ("a", "b")
FOLLOW = "follow"
MOST_PENDING = 1500
EXIT_FENCED = 7


class Child:
    def __init__(self, queue: Queue, log: int, seed: int) -> None:
        self.queue = queue
        self.log = log
        self.random = random.Random(seed)
        self.prefix = f"s{seed}"
        self.recent: deque[str] = deque(maxlen=50)
        self.dead: deque[str] = deque(maxlen=50)

    def report(self, *words: object) -> None:
        os.write(self.log, (" ".join(map(str, words)) + "\n").encode())

    def request(self, name: str, **options: object) -> EnqueueRequest:
        job_id = self.queue.next_job_id()
        return EnqueueRequest(
            name,
            os.urandom(self.random.choice((8, 64, 600))),
            job_id=job_id,
            kv_writes={f"born/{job_id}": b""},
            priority=self.random.choice((None, None, 1, 5000)),
            **options,  # type: ignore[arg-type]
        )

    def enqueued(self, results: list[EnqueueResult]) -> None:
        for result in results:
            self.report("enqueued", result.id)
            self.recent.append(result.id)

    async def room(self) -> None:
        while True:
            stats = [await self.queue.stats(name) for name in QUEUES]
            if sum(s.pending + s.scheduled for s in stats) < MOST_PENDING:
                return
            await asyncio.sleep(0.002)

    async def produce(self) -> None:
        while True:
            await self.room()
            name = self.random.choice(QUEUES)
            draw = self.random.random()
            if draw < 0.2:
                await self.produce_batch()
            elif draw < 0.3:
                request = self.request(name, delay=self.random.uniform(0.005, 0.1))
                self.enqueued(await self.queue.enqueue_batch([request]))
            elif draw < 0.4:
                key = f"key{self.random.randrange(5)}"
                self.enqueued(await self.queue.enqueue_batch([self.request(name, dedup_key=key)]))
            else:
                self.enqueued(await self.queue.enqueue_batch([self.request(name)]))

    async def produce_batch(self) -> None:
        requests = [
            self.request(self.random.choice(QUEUES), delay=self.random.choice((None, 0.02)))
            for _ in range(self.random.randrange(2, 9))
        ]
        ids = " ".join(str(request.job_id) for request in requests)
        # Which jobs landed together, told by a row that landed with them.
        requests.append(
            EnqueueRequest(
                FOLLOW,
                b"batch",
                job_id=(own := self.queue.next_job_id()),
                kv_writes={f"born/{own}": b"", f"batch/{own}": ids.encode()},
            )
        )
        self.enqueued(await self.queue.enqueue_batch(requests))

    async def work(self, name: str) -> None:
        while True:
            claims = await self.queue.claim_batch(name, self.random.choice((1, 1, 4)), wait=5)
            for claim in claims:
                with contextlib.suppress(ClaimLost):
                    await self.settle(claim)

    async def settle(self, claim: Claim) -> None:
        number = claim._job.history_length
        draw = self.random.random()
        if draw < 0.1:
            outcome = await self.queue.nack(
                claim,
                "no luck",
                SettlementEffects(kv_writes={f"dead/{claim.id}/{number}": b"nack"}),
            )
            self.report("retried" if outcome.retried else "dead", claim.id, number)
        elif draw < 0.13:
            effects = SettlementEffects(kv_writes={f"dead/{claim.id}/{number}": b""})
            await self.queue.dead_letter(claim, "hopeless", effects)
            self.report("dead", claim.id, number)
            self.dead.append(claim.id)
        else:
            await self.queue.ack(claim, self.effects_of(claim, number))
            self.report("acked", claim.id, number)

    def effects_of(self, claim: Claim, number: int) -> SettlementEffects:
        entry = {f"acked/{claim.id}/{number}": claim.queue.encode()}
        if claim.queue == FOLLOW:
            return SettlementEffects(kv_writes=entry)
        follow = EnqueueRequest(
            FOLLOW,
            claim.id.encode(),
            job_id=f"f-{claim.id}",
            kv_writes={f"born/f-{claim.id}": b""},
        )
        return SettlementEffects(enqueues=[follow], kv_writes=entry)

    async def operate(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            if self.dead and self.random.random() < 0.3:
                job_id = self.dead.popleft()
                self.report("requeueing", job_id)
                await self.queue.requeue_dead(job_id)
                self.report("requeued", job_id)
            elif self.recent:
                job_id = self.random.choice(self.recent)
                if self.random.random() < 0.3:
                    if await self.queue.wake_scheduled(job_id) is WakeOutcome.WOKEN:
                        self.report("woken", job_id)
                    continue
                effects = SettlementEffects(kv_writes={f"cancelled/{job_id}": b""})
                if await self.queue.cancel(job_id, effects) is CancelOutcome.REMOVED:
                    self.report("cancelled", job_id)

    async def count(self) -> None:
        """Two of these run: a compare-put that both win would lose one of their steps."""
        key = f"counter/{self.prefix}"
        while True:
            value = await self.queue.kv_get(key)
            number = int(value or b"0") + 1
            if await self.queue.kv_compare_put(key, value, str(number).encode()):
                self.report("counted", self.prefix, number)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(self.produce())
            for name in (*QUEUES, FOLLOW):
                for _ in range(12):
                    group.create_task(self.work(name))
            for _ in range(2):
                group.create_task(self.operate())
                group.create_task(self.count())


async def main(store: str, log_path: str, seed: int, fsync: bool) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(1, b"ready\n")
    if not sys.stdin.readline():
        return
    queue = await Queue.open(store, default_config=CONFIG, fsync=fsync, take_over=True)
    try:
        await Child(queue, log, seed).run()
    except* StoreFenced:
        await queue.close()
        os.write(log, b"fenced\n")
        sys.exit(EXIT_FENCED)


if __name__ == "__main__":
    # Often, so that kills come in between.
    cursors._TAKEN = 5
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"))
