"""Producers, owners, repetitions and restarts in any order: each request makes one job."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from taquba import EnqueueRequest, InboxConfig, Producer, Queue, Receipt
from taquba.testing import MockClock
from tests.inbox.support import contents, inbox_at

ASLEEP = InboxConfig(poll_interval=3600)
KEYS = ["a", "b"]

Step = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 3)),
        st.tuples(st.just("send with key"), st.integers(0, 1)),
        st.tuples(st.just("send again"), st.integers(0, 20)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("take twice at once"), st.just(0)),
        st.tuples(st.just("finish"), st.integers(1, 3)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("take over"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 23)),
    ),
    max_size=30,
)


class World:
    """One store, its owners and its producers."""

    def __init__(self) -> None:
        self.url = f"memory://{uuid.uuid4().hex}"
        self.clock = MockClock()
        self.sent: dict[str, bytes] = {}
        """Every batch that was ever put there."""
        self.promised: set[str] = set()
        self.finished: list[str] = []
        self.hours = 0

    async def open(self) -> Queue:
        return await Queue.open(self.url, inbox=ASLEEP, clock=self.clock, take_over=True)

    async def run(self, script: Sequence[Step]) -> None:
        self.inbox = await inbox_at(self.url)
        self.queue = await self.open()
        for kind, number in script:
            await self.step(kind, number)
        await self.queue.ingest_now()
        while await self.finish(100):
            pass
        assert sorted(self.finished) == sorted(self.promised)
        assert await contents(self.inbox) == {}
        await self.queue.close()

    async def step(self, kind: str, number: int) -> None:
        match kind:
            case "send":
                requests = [EnqueueRequest("q", b"") for _ in range(number)]
                async with Producer.open(self.url, clock=self.clock) as producer:
                    receipts = await producer.enqueue_batch(requests)
                await self.note(receipts)
            case "send with key":
                async with Producer.open(self.url, clock=self.clock) as producer:
                    receipts = await asyncio.gather(
                        producer.enqueue("q", b"", idempotency_key=KEYS[number]),
                        producer.enqueue("q", b""),
                    )
                await self.note(receipts)
            case "send again":
                for name in sorted(self.sent)[number : number + 1]:
                    await self.inbox.put(name, self.sent[name])
            case "take":
                await self.queue.ingest_now()
            case "take twice at once":
                await asyncio.gather(self.queue.ingest_now(), self.queue.ingest_now())
            case "finish":
                await self.finish(number)
            case "reopen":
                await self.queue.close()
                self.queue = await self.open()
            case "take over":
                fenced, self.queue = self.queue, await self.open()
                await fenced.close()
            case _:
                # All of it lies within the window of what was taken first.
                if self.hours + number < 24:
                    self.hours += number
                    await self.clock.advance(number * 3600)

    async def note(self, receipts: Sequence[Receipt]) -> None:
        """Jobs that there must be, once; and what carries them, if it is still there."""
        self.promised |= {receipt.id for receipt in receipts}
        self.sent |= await contents(self.inbox)

    async def finish(self, most: int) -> bool:
        """Finish some jobs; whether there were any."""
        claims = await self.queue.claim_batch("q", most)
        for claim in claims:
            await self.queue.ack(claim)
            self.finished.append(claim.id)
        return bool(claims)


@given(steps)
def test_each_request_makes_one_job_in_any_order_of_events(script: list[Step]) -> None:
    asyncio.run(World().run(script))
