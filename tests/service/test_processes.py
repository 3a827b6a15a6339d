"""Processes that share a store, and are killed: nothing is lost, nothing settled twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.support import Children, children, store_url


@pytest.fixture(params=["folder", "S3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request.param, request, tmp_path)


async def all_is_well(service: Children) -> None:
    await service.finish()
    settled = await service.settlements()
    assert service.sent() <= settled.keys(), "an acknowledged job was lost"
    assert settled.total() == len(settled), "a job was settled twice"


async def test_owners_that_are_killed_are_replaced(url: str, tmp_path: Path) -> None:
    async with children(url, tmp_path, takeover=2) as service:
        for _ in range(3):
            await service.start()
        for _ in range(2):
            owner = await service.owner()
            await service.until_sent(30)
            await owner.kill()
            # Those that are left go on to send, and what they send is handled.
            await service.until_sent(30)
        await all_is_well(service)


async def test_an_owner_that_stops_hands_over(url: str, tmp_path: Path) -> None:
    async with children(url, tmp_path, takeover=2) as service:
        first = await service.start()
        assert await service.owner() is first
        second = await service.start()
        producer = await service.start("producer")
        await service.until_sent(30)
        assert await first.stop() == 0
        assert await service.owner() is second
        await service.until_sent(30)
        assert not producer.reports("owner")
        await all_is_well(service)
