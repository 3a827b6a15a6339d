"""One odd answer, or a few in a row, at any moment of a store's life: nothing is lost, and every
call and every opening goes well."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from taquba import InboxConfig, Producer, Queue
from tests.conftest import LONG
from tests.queue.support import must_claim
from tests.servers.faulty_s3 import FaultyS3, Odd

URL = "s3://bucket/prefix"
ASLEEP = InboxConfig(poll_interval=3600)
CRASHING = Path(__file__).parent.parent / "store" / "crashing_child.py"

ANSWERS = (
    (404, "NoSuchKey"),
    (404, "NoSuchBucket"),
    (409, "ConditionalRequestConflict"),
    (412, "PreconditionFailed"),
    (403, "AccessDenied"),
    (400, "ExpiredToken"),
    (500, "InternalError"),
    (503, "SlowDown"),
    (0, ""),
)
REQUESTS = 125
"""About as many as a life has."""


async def life(jobs: dict[str, bytes]) -> None:
    """From the opening of a store that was not closed, to its closing; `jobs` are left then."""
    async with (
        Queue.open(URL, inbox=ASLEEP, payload_offload_threshold=100) as queue,
        Producer.open(URL) as producer,
    ):
        for payload in (b"small", b"large" * 100):
            jobs[(await queue.enqueue("q", payload)).id] = payload
        jobs[(await producer.enqueue("q", b"sent" * 100)).id] = b"sent" * 100
        await queue.ingest_now()
        claim = await must_claim(queue)
        assert claim.payload == jobs.pop(claim.id)
        await queue.ack(claim)
        await queue.sweep_now()
        await queue.objects.put("key", b"value")
        assert await queue.objects.get("key") == b"value"


@pytest.mark.parametrize("seed", range(400 if LONG else 4))
async def test_an_odd_answer_at_any_moment_loses_nothing(s3: FaultyS3, seed: int) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, str(CRASHING), URL, "3")
    assert await child.wait() == 0
    crashed = dict(s3.objects)
    async with Queue.open(URL) as queue:
        jobs = {job.id: job.payload for job in (await queue.list_jobs("q", "pending")).jobs}
    s3.objects = crashed
    chance = random.Random(seed)
    first, count = chance.randrange(REQUESTS), chance.choice((1, 1, 2, 3))
    odd = Odd(*chance.choice(ANSWERS), carried_out=chance.random() < 0.5)
    asked = 0

    def rule(method: str, key: str, conditional: bool) -> Odd | None:
        nonlocal asked
        asked += 1
        return odd if first < asked <= first + count else None

    s3.odd = rule
    await life(jobs)
    s3.odd = None
    async with Queue.open(URL, inbox=ASLEEP) as queue:
        await queue.ingest_now()
        claims = [await must_claim(queue) for _ in jobs]
        assert {claim.id: claim.payload for claim in claims} == jobs
        stats = await queue.stats("q")
        assert (stats.pending, stats.scheduled, stats.dead) == (0, 0, 0)
