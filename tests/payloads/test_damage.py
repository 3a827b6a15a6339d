"""Objects that are not what was written are never handed out, and said to be damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import JobRecord, LeaseHandle, ObjectDamaged, PayloadDamaged, Queue, QueueReader
from taquba._objects.integrity import Damaged, check_mark, mark_of, seal, unseal
from taquba.testing import MockClock, drain
from tests.payloads.support import DAMAGES, damage, exchange, payload_objects, put_right
from tests.queue.support import OpenQueue, fresh_url, must_claim
from tests.servers.faulty_s3 import FaultyS3

LIMIT = 100
Change = Callable[[bytes], bytes]
damages = pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)


@pytest.fixture(params=["memory", "folder", "S3"])
def payload_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return fresh_url()
    if request.param == "folder":
        return str(tmp_path / "payloads")
    s3: FaultyS3 = request.getfixturevalue("s3")
    return f"{s3.root}/payloads"


@pytest.fixture
async def queue(open_queue: OpenQueue, payload_url: str) -> Queue:
    return await open_queue(fresh_url(), payload_url=payload_url, payload_offload_threshold=LIMIT)


# -- payloads -----------------------------------------------------------------------------------


@damages
async def test_a_payload_that_is_damaged_is_not_handed_out(
    queue: Queue, mock_clock: MockClock, change: Change
) -> None:
    content = os.urandom(5000)
    job_id, _ = await queue.enqueue("q", content)
    before = await damage(queue, "/jobs/", change)
    assert await queue.claim("q") is None
    assert await queue.claim_batch("q", 5) == []
    found = await queue.get_job(job_id)
    assert found is not None
    with pytest.raises(PayloadDamaged, match=f"the payload of job '{job_id}' is damaged"):
        found.payload  # noqa: B018 - reading it is what raises
    await put_right(queue, before)
    if found.status == "dead":
        await queue.requeue_dead(job_id)
    await mock_clock.advance(3600)
    assert (await must_claim(queue)).payload == content


async def test_a_payload_that_stays_damaged_is_a_dead_letter_that_says_so(
    queue: Queue, mock_clock: MockClock
) -> None:
    job_id, _ = await queue.enqueue("q", bytes(LIMIT + 1))
    await damage(queue, "/jobs/", lambda data: data[:50])
    for _ in range(30):
        assert await queue.claim("q") is None
        await mock_clock.advance(600)
    (dead,) = (await queue.dead_jobs("q")).jobs
    assert dead.id == job_id
    assert "it has 50 bytes instead of 101" in str(dead.last_error)


async def test_payloads_that_changed_places_are_not_handed_out(queue: Queue) -> None:
    for content in (b"a" * 5000, b"b" * 5000):
        await queue.enqueue("q", content)
    await exchange(queue, "/jobs/")
    assert await queue.claim_batch("q", 5) == []
    for job in (await queue.list_jobs("q", "scheduled")).jobs + (await queue.dead_jobs("q")).jobs:
        with pytest.raises(PayloadDamaged, match="SHA-256"):
            job.payload  # noqa: B018 - reading it is what raises


async def test_a_worker_goes_on_with_the_jobs_behind_a_damaged_one(queue: Queue) -> None:
    await queue.enqueue("q", bytes(5000))
    await damage(queue, "/jobs/", lambda data: data[1:])
    sound, _ = await queue.enqueue("q", bytes(5000))
    seen: list[tuple[str, int]] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append((job.id, len(job.payload)))

    await drain(queue, "q", handler)
    assert seen == [(sound, 5000)]


async def test_a_damaged_payload_hides_no_other_job_of_a_listing(
    queue: Queue, payload_url: str
) -> None:
    damaged, _ = await queue.enqueue("q", bytes(5000))
    await damage(queue, "/jobs/", lambda data: data + data)
    sound, _ = await queue.enqueue("q", bytes(5000))
    listed = (await queue.list_jobs("q", "pending")).jobs
    assert [job.id for job in listed] == [damaged, sound]
    assert listed[1].payload == bytes(5000)
    assert f"{damaged}." in repr(listed[0])
    with pytest.raises(PayloadDamaged, match="it has 10000 bytes instead of 5000"):
        listed[0].payload  # noqa: B018 - reading it is what raises


async def test_a_reader_refuses_it_as_well(tmp_path: Path) -> None:
    async with Queue.open(tmp_path / "store", payload_offload_threshold=LIMIT) as queue:
        job_id, _ = await queue.enqueue("q", bytes(5000))
        await queue.objects.put("a", bytes(5000))
        await damage(queue, "/", lambda data: data[:-1])
        async with QueueReader.open(tmp_path / "store") as reader:
            found = await reader.get_job(job_id)
            assert found is not None
            with pytest.raises(PayloadDamaged):
                found.payload  # noqa: B018 - reading it is what raises
            (listed,) = (await reader.list_jobs("q", "pending")).jobs
            with pytest.raises(PayloadDamaged):
                listed.payload  # noqa: B018 - reading it is what raises
            with pytest.raises(ObjectDamaged):
                await reader.objects.get("a")


async def test_orphans_are_found_by_their_names(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", bytes(5000))
    (ref,) = await payload_objects(queue)
    payloads = queue._owner.payloads
    await payloads._objects.put(f"{payloads._prefix}/no-job.{ref.partition('.')[2]}", b"")
    await mock_clock.advance(timedelta(days=2))
    await queue.sweep_now()
    assert await payload_objects(queue) == {ref}


async def test_a_transfer_that_was_cut_off_is_repeated(s3: FaultyS3, tmp_path: Path) -> None:
    async with Queue.open(
        "memory://", payload_url=f"{s3.root}/payloads", payload_offload_threshold=LIMIT
    ) as queue:
        await queue.enqueue("q", bytes(5000))
        await queue.objects.put("a", bytes(5000))
        s3.short_reads = 2
        assert (await must_claim(queue)).payload == bytes(5000)
        s3.short_reads = 2
        assert await queue.objects.get("a") == bytes(5000)


# -- objects of the caller ----------------------------------------------------------------------


@damages
@pytest.mark.parametrize("size", [0, 1, 5000])
async def test_an_object_that_is_damaged_is_not_handed_out(
    queue: Queue, change: Change, size: int
) -> None:
    content = os.urandom(size)
    await queue.objects.put("reports/2026", content)
    before = await damage(queue, "/objects/", change)
    with pytest.raises(ObjectDamaged, match="'reports/2026' is damaged") as caught:
        await queue.objects.get("reports/2026")
    assert caught.value.permanent
    await queue.objects.put("reports/2026", b"new")
    assert await queue.objects.get("reports/2026") == b"new"
    await put_right(queue, before)
    assert await queue.objects.get("reports/2026") == content


async def test_objects_that_changed_places_are_not_handed_out(queue: Queue) -> None:
    await queue.objects.put("a", b"same")
    await queue.objects.put("b", b"same")
    await exchange(queue, "/objects/")
    for key in ("a", "b"):
        with pytest.raises(ObjectDamaged, match="SHA-256"):
            await queue.objects.get(key)


async def test_what_somebody_else_put_there_is_not_an_object(queue: Queue) -> None:
    await queue.objects.put("a", b"")
    await damage(queue, "/objects/", lambda data: b"0123456789")
    with pytest.raises(ObjectDamaged, match="the end of its 10 bytes is missing"):
        await queue.objects.get("a")
    assert [info.size async for info in queue.objects.list()] == [0]
    await queue.objects.delete(["a"])
    assert await queue.objects.get("a") is None


# -- what they are checked by -------------------------------------------------------------------


@given(content=st.binary(max_size=300), key=st.text(max_size=20), data=st.data())
def test_whatever_is_changed_is_found(content: bytes, key: str, data: st.DataObject) -> None:
    sealed = seal(key, content)
    assert unseal(key, sealed) == content
    start = data.draw(st.integers(0, len(sealed)))
    end = data.draw(st.integers(start, len(sealed)))
    other = sealed[:start] + data.draw(st.binary(max_size=40)) + sealed[end:]
    if other != sealed:
        with pytest.raises(Damaged):
            unseal(key, other)
    with pytest.raises(Damaged):
        unseal(f"{key}x", sealed)


@given(content=st.binary(max_size=300), other=st.binary(max_size=300))
def test_a_mark_fits_one_content(content: bytes, other: bytes) -> None:
    mark = mark_of(content)
    check_mark(content, mark)
    if other != content:
        with pytest.raises(Damaged):
            check_mark(other, mark)
