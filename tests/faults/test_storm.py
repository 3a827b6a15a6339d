"""Owners at full speed behind a faulty network: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from taquba import StoreError, StoreFenced
from tests.faults.support import FaultyStore, Work, settled, working
from tests.servers.faults import Faults
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import AzureServer, S3Server

IN_TIME = 40
"""Seconds within which every call must say something: an operation's bound, and some work."""

STORMS = {
    "errors in bursts": Faults(refuse=0.05, burst=4),
    "resets": Faults(reset=0.2),
    "hangs": Faults(hang=0.02),
    "failed replies": Faults(fail_reply=0.2),
    "lost replies": Faults(lose_reply=0.2),
    "hung replies": Faults(hang_reply=0.02),
    "a bit of everything, slowly": Faults(
        latency_ms=20, refuse=0.05, reset=0.05, fail_reply=0.05, lose_reply=0.05
    ),
}


@pytest.mark.parametrize("name", STORMS)
async def test_an_owner_goes_on_after_a_storm(
    store: FaultyStore, tmp_path: Path, name: str
) -> None:
    queue = await store.open()
    async with working(queue, tmp_path / "log", 1) as work:
        await work.goes_on()
        await store.proxy.inject(STORMS[name])
        await asyncio.sleep(1.5)
        await store.proxy.calm()
        await work.goes_on()
    counts = await store.proxy.counts()
    assert counts.of().struck
    assert counts.of(method="PUT", kind="payload").requests
    assert work.queue.longest < IN_TIME
    await settled(queue)
    await queue.close()
    assert (await store.examine(work)).entries("acked/")


async def live_through(
    store: FaultyStore, folder: Path, seed: int, lives: int, seconds: float
) -> None:
    """Owners that open, work, and close or are fenced by the next, all behind the same faults."""
    chance = random.Random(seed)
    works: list[Work] = []
    for life in range(lives):
        queue = None
        async with asyncio.timeout(4 * IN_TIME):
            while queue is None:
                try:
                    queue = await store.open()
                except StoreError as error:
                    if error.permanent:
                        raise
        async with working(queue, folder / f"log{life}", seed * 1000 + life) as work:
            works.append(work)
            await work.goes_on(5, seconds=4 * IN_TIME)
            await asyncio.sleep(chance.uniform(0, seconds))
            if chance.random() < 0.5:
                async with store.next_owner():
                    done, _ = await asyncio.wait([work.task], timeout=IN_TIME)
                    assert done, "an owner did not notice that it was fenced"
                    assert_fenced(work.task)
        assert work.queue.longest < IN_TIME
        await asyncio.wait_for(queue.close(), 2 * IN_TIME)
    assert (await store.proxy.counts()).of().struck > 5 * lives
    assert (await store.examine(*works)).entries("acked/")


def assert_fenced(task: asyncio.Task[None]) -> None:
    error = task.exception()
    assert isinstance(error, BaseExceptionGroup)
    assert error.split(StoreFenced)[1] is None, error


EVERYTHING = Faults(refuse=0.03, reset=0.03, fail_reply=0.05, lose_reply=0.05)


async def test_owners_follow_each_other_in_a_storm(store: FaultyStore, tmp_path: Path) -> None:
    await store.proxy.inject(EVERYTHING)
    await live_through(store, tmp_path, 1, 3, 0.5)


async def test_owners_follow_each_other_in_a_storm_on_azure(
    azure_server: AzureServer, tmp_path: Path
) -> None:
    async with FaultyProxy(azure_server.endpoint, EVERYTHING, seed=2) as proxy:
        await live_through(FaultyStore(azure_server, proxy), tmp_path, 2, 2, 0.5)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 16))
async def test_owners_follow_each_other_in_a_long_storm(
    s3_server: S3Server, tmp_path: Path, seed: int
) -> None:
    async with FaultyProxy(s3_server.endpoint, EVERYTHING, seed=seed) as proxy:
        await live_through(FaultyStore(s3_server, proxy), tmp_path, seed, 15, 3)
