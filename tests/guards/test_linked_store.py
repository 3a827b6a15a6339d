"""A store that a symbolic link leads to is the same store, with all that lies beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taquba import InvalidArgument, OwnerPresence, Producer, Queue, QueueReader

SMALL = 100
LARGE = b"x" * 5000


@pytest.fixture
def real(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume" / "store"


@pytest.fixture(params=["the store", "the folder above it", "a chain of links"])
def link(request: pytest.FixtureRequest, tmp_path: Path, real: Path) -> Path:
    """A path to the store that leads through a link; the store may not be there yet."""
    link = tmp_path / "link"
    if request.param == "the store":
        link.symlink_to(real)
        return link
    if request.param == "the folder above it":
        link.symlink_to(real.parent)
        return link / real.name
    (tmp_path / "first").symlink_to(real)
    link.symlink_to("first")
    return link


async def test_large_payloads_and_the_inbox_are_found_through_a_link_and_without(
    link: Path, real: Path
) -> None:
    for first, second in ((link, real), (real, link)):
        async with Queue.open(first, payload_offload_threshold=SMALL, inbox=True) as queue:
            await queue.enqueue("q", LARGE)
            await queue.objects.put("report", b"whole")
        async with Producer.open(second) as producer:
            await producer.enqueue("q", b"small")
        async with Queue.open(second, payload_offload_threshold=SMALL, inbox=True) as queue:
            await queue.enqueue("q", LARGE)
            await queue.ingest_now()
            claims = await queue.claim_batch("q", 10)
            assert sorted(len(claim.payload) for claim in claims) == [5, 5000, 5000]
            for claim in claims:
                await queue.ack(claim)
            assert await queue.objects.get("report") == b"whole"
    assert sorted(os.listdir(real.parent)) == ["store", "store-inbox", "store-payloads"]


async def test_an_owner_is_seen_and_reached_through_a_link(
    tmp_path: Path, short_path: Path
) -> None:
    real, link = short_path / "store", tmp_path / "link"
    link.symlink_to(real)
    async with Queue.open(real, inbox=True, producer_socket=True) as queue:
        async with QueueReader.open(link) as reader:
            assert (await reader.detect_owner(0)).presence is OwnerPresence.PRESENT
        async with Producer.open(link) as producer:
            receipt = await producer.enqueue("q", b"")
            # It went through the socket: nobody looked into the inbox.
            assert await queue.get_job(receipt.id) is not None


@pytest.mark.parametrize("suffix", ["-payloads", "-inbox"])
@pytest.mark.allow_blocking("the test itself moves the folder")
async def test_what_lies_beside_a_link_is_named_instead_of_forgotten(
    tmp_path: Path, real: Path, suffix: str
) -> None:
    async with Queue.open(real, payload_offload_threshold=SMALL, inbox=True) as queue:
        await queue.enqueue("q", LARGE)
    link = tmp_path / "link"
    link.symlink_to(real)
    place, astray = real.with_name(f"store{suffix}"), tmp_path / f"link{suffix}"
    place.rename(astray)
    with pytest.raises(InvalidArgument, match=f"move the content of {astray} to {place}"):
        await Queue.open(link)
    # Whoever made it a link knows what it is.
    astray.rename(place)
    astray.symlink_to(place)
    async with Queue.open(link, payload_offload_threshold=SMALL, inbox=True) as queue:
        claim = await queue.claim("q")
        assert claim is not None
        assert claim.payload == LARGE


async def test_links_that_lead_to_each_other_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(Exception, match="one"):
        await Queue.open(tmp_path / "one")
