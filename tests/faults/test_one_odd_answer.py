"""A bucket that answers one request with what is not so: nothing irreversible follows from it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from taquba import (
    InboxConfig,
    JobRecord,
    LeaseHandle,
    Producer,
    Queue,
    QueueConfig,
    Service,
    StoreError,
    run_service,
)
from taquba._objects.candidates import stand_for
from taquba._objects.fitness import check_new_store
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.location import StoreLocation
from taquba._objects.space import ObjectSpace
from taquba.extending.named import NamedObjectMissing, read_named
from taquba_jobs import JobContext, JobRunner, job
from taquba_workflow import RunSpec, Step, StepOutcome, Succeed, WorkflowRuntime
from tests.queue.support import must_claim
from tests.servers.faulty_s3 import FaultyS3, Odd, OddRule, once

URL = "s3://bucket/prefix"
ASLEEP = InboxConfig(poll_interval=3600)

NOT_THERE = Odd(404, "NoSuchKey")
NO_BUCKET = Odd(404, "NoSuchBucket")
CONFLICT = Odd(409, "ConditionalRequestConflict")
FAILED_PRECONDITION = Odd(412, "PreconditionFailed")
EXPIRED = Odd(400, "ExpiredToken")
DENIED = Odd(403, "AccessDenied")
STORED_AND_DENIED = Odd(403, "AccessDenied", carried_out=True)
STORED_AND_CONFLICT = Odd(409, "ConditionalRequestConflict", carried_out=True)
STORED_AND_LOST = Odd(0, carried_out=True)

REFUSALS = [NOT_THERE, NO_BUCKET, CONFLICT, FAILED_PRECONDITION, EXPIRED, DENIED]
CARRIED_OUT = [STORED_AND_DENIED, STORED_AND_CONFLICT, STORED_AND_LOST]


def named(odd: Odd) -> str:
    return f"{odd.status} {odd.code}{', carried out' if odd.carried_out else ''}"


@contextlib.asynccontextmanager
async def owner() -> AsyncIterator[Queue]:
    async with Queue.open(URL, inbox=ASLEEP, payload_offload_threshold=100) as queue:
        yield queue


def always(method: str, part: str, odd: Odd) -> OddRule:
    def rule(command: str, key: str, conditional: bool) -> Odd | None:
        is_meant = command == method and part in key and not key.startswith("LIST ")
        return odd if is_meant else None

    return rule


async def handle(job: JobRecord, lease: LeaseHandle) -> None:
    pass


# -- the inbox -----------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", REFUSALS, ids=named)
async def test_a_batch_that_cannot_be_read_once_is_taken(s3: FaultyS3, odd: Odd) -> None:
    async with owner() as queue, Producer.open(URL) as producer:
        receipt = await producer.enqueue("q", b"")
        s3.odd = once("GET", "-inbox/new/", odd)
        await queue.ingest_now()
        assert await queue.get_job(receipt.id) is not None


async def test_a_batch_that_is_listed_and_not_found_stays_for_a_later_round(
    s3: FaultyS3, caplog: pytest.LogCaptureFixture
) -> None:
    async with owner() as queue, Producer.open(URL) as producer:
        receipt = await producer.enqueue("q", b"")
        s3.odd = always("GET", "-inbox/new/", NOT_THERE)
        assert await queue.ingest_now() == 0
        assert not caplog.records
        # A listing may lag behind a removal once.
        assert await queue.ingest_now() == 0
        assert ["cannot be read" in record.message for record in caplog.records] == [True]
        assert await queue.ingest_now() == 0
        assert len(caplog.records) == 1
        s3.odd = None
        assert await queue.ingest_now() == 1
        assert await queue.get_job(receipt.id) is not None


async def test_a_batch_that_was_read_wrongly_once_is_not_rejected(s3: FaultyS3) -> None:
    async with owner() as queue, Producer.open(URL) as producer:
        receipt = await producer.enqueue("q", b"")
        (key,) = (key for key in s3.objects if "-inbox/new/" in key)
        whole = s3.objects[key]
        reads = 0

        def odd(method: str, path: str, conditional: bool) -> None:
            nonlocal reads
            if method == "GET" and path == key:
                reads += 1
                data = whole.data[:-1] if reads == 1 else whole.data
                s3.objects[key] = type(whole)(data, whole.written_at)

        s3.odd = odd
        assert await queue.ingest_now() == 0
        await queue.ingest_now()
        assert await queue.get_job(receipt.id) is not None
        assert (await queue.inbox_stats()).rejected == 0


@pytest.mark.parametrize("odd", [*REFUSALS, *CARRIED_OUT], ids=named)
async def test_what_a_producer_acknowledges_is_stored(s3: FaultyS3, odd: Odd) -> None:
    async with owner() as queue, Producer.open(URL) as producer:
        s3.odd = once("PUT", "-inbox/new/", odd)
        receipt = await producer.enqueue("q", b"")
        s3.odd = None
        # The producer's word may have come first.
        await queue.ingest_now()
        assert await queue.get_job(receipt.id) is not None
        assert await queue.ingest_now() == 0
        assert (await queue.stats("q")).pending == 1


async def test_an_inbox_whose_sign_is_read_wrongly_once_is_no_other_versions(s3: FaultyS3) -> None:
    async with owner():
        s3.short_reads = 1
        async with Producer.open(URL) as producer:
            await producer.enqueue("q", b"")
        assert not s3.short_reads


async def test_a_batch_that_exists_with_other_content_is_not_acknowledged(s3: FaultyS3) -> None:
    inbox = await InboxObjects.open(StoreLocation.parse(URL), fsync=False)
    await inbox.put("name", b"one")
    await inbox.put("name", b"one")
    with pytest.raises(StoreError, match="another batch"):
        await inbox.put("name", b"two")


@pytest.mark.parametrize("odd", [NOT_THERE, CONFLICT, DENIED, *CARRIED_OUT], ids=named)
@pytest.mark.parametrize("request_", ["PUT /batch", "HEAD /batch", "HEAD new/", "POST "])
async def test_a_batch_that_is_put_aside_is_never_gone(
    s3: FaultyS3, odd: Odd, request_: str
) -> None:
    inbox = await InboxObjects.open(StoreLocation.parse(URL), fsync=False)
    await inbox.put("name", b"bad")
    method, part = request_.split(" ")
    s3.odd = once(method, part, odd) if part else first_delete(odd)
    with contextlib.suppress(StoreError):
        await inbox.reject("name", "why")
    assert [o.data for key, o in s3.objects.items() if key.endswith(("new/name", "/batch"))]
    s3.odd = None
    await inbox.reject("name", "why")
    assert [info.key async for page in inbox.rejected() for info in page] == ["name"]
    assert [page async for page in inbox.batches()] == []


def first_delete(odd: Odd) -> OddRule:
    left = [odd]
    return lambda method, _key, _: left.pop() if method == "POST" and left else None


# -- objects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", REFUSALS, ids=named)
async def test_a_payload_that_cannot_be_read_once_costs_its_job_nothing(
    s3: FaultyS3, odd: Odd
) -> None:
    async with owner() as queue:
        await queue.enqueue("q", b"x" * 200, max_attempts=1)
        s3.odd = once("GET", "-payloads/", odd)
        claim = await must_claim(queue)
        assert (claim.payload, claim.attempts) == (b"x" * 200, 1)


@pytest.mark.parametrize("odd", [NO_BUCKET, EXPIRED, DENIED], ids=named)
async def test_a_job_whose_payload_is_refused_spends_no_attempt(s3: FaultyS3, odd: Odd) -> None:
    async with owner() as queue:
        job_id, _ = await queue.enqueue("q", b"x" * 200, max_attempts=1)
        s3.odd = lambda _method, key, _: odd if "-payloads/" in key else None
        with pytest.raises(StoreError):
            await queue.claim("q")
        s3.odd = None
        job = await queue.get_job(job_id)
        assert job is not None
        assert (job.status, job.attempts) == ("scheduled", 0)


@pytest.mark.parametrize("odd", [*REFUSALS, *CARRIED_OUT], ids=named)
async def test_an_object_is_written_read_listed_and_removed_over_an_odd_answer(
    s3: FaultyS3, odd: Odd
) -> None:
    async with owner() as queue:
        s3.odd = once("PUT", "/objects/", odd)
        await queue.objects.put("key", b"value")
        s3.odd = once("GET", "/objects/", odd)
        assert await queue.objects.get("key") == b"value"
        left = [odd]
        s3.odd = lambda _method, key, _: left.pop() if key.startswith("LIST") and left else None
        assert [info.key async for info in queue.objects.list()] == ["key"]
        s3.odd = first_delete(odd)
        await queue.objects.delete(["key"])
        s3.odd = None
        assert await queue.objects.get("key") is None


@pytest.mark.parametrize("fault", [None, "inclusive offsets", "ignored offsets"])
async def test_a_listing_that_breaks_off_goes_on_behind_what_it_has_shown(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    monkeypatch.setattr("taquba._objects.bucket_listing._PAGE", 2)
    s3.page_size = 2
    # As Azure, whose offset is where a listing begins, and as servers that do not know it.
    s3.faults = set() if fault is None else {fault}
    space = await ObjectSpace.open(StoreLocation.parse(URL), fsync=False)
    for number in range(7):
        await space.put(f"folder/{number}", b"")
    left = [DENIED]
    seen: list[str] = []
    async for page in space.list("folder"):
        seen += [info.key for info in page]
        s3.odd = lambda _method, _key, _: left.pop() if left else None
    assert seen == [f"folder/{number}" for number in range(7)]


# -- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [*REFUSALS, *CARRIED_OUT], ids=named)
@pytest.mark.parametrize("method", ["PUT", "GET", "LIST", "POST"])
async def test_a_new_store_passes_its_examination_over_an_odd_answer(
    s3: FaultyS3, method: str, odd: Odd
) -> None:
    left = [odd]

    def rule(command: str, key: str, conditional: bool) -> Odd | None:
        kind = "LIST" if key.startswith("LIST") else command
        return left.pop() if kind == method and left else None

    s3.odd = rule
    await check_new_store(StoreLocation.parse(URL))
    # It reads only where a write was refused.
    assert (method == "GET") == bool(left)
    assert not s3.objects


@pytest.mark.parametrize("odd", REFUSALS, ids=named)
@pytest.mark.parametrize("part", ["taquba.json", "inbox.json", "LIST "])
async def test_opening_repeats_what_was_answered_oddly(s3: FaultyS3, odd: Odd, part: str) -> None:
    async with owner():
        pass
    left = [odd, odd]

    def rule(method: str, key: str, conditional: bool) -> Odd | None:
        # Those of the storage engine are its own.
        engines = any(f"/{folder}" in key for folder in ("wal", "compacted", "compactions", "gc"))
        return left.pop() if part in key and not engines and left else None

    s3.odd = rule
    async with owner(), Producer.open(URL):
        pass
    assert not left


async def left_with_commits(s3: FaultyS3, commits: int) -> None:
    """A store whose owner died, with a file of the write-ahead log for each commit."""
    async with owner() as queue:
        for _ in range(commits):
            await queue.enqueue("q", b"x")
        died_with = dict(s3.objects)
    s3.objects = died_with


async def test_an_opening_waits_longer_for_a_store_that_has_answered_before(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owner():
        pass
    s3.read_seconds = 0.1
    monkeypatch.setattr("taquba._objects.client._TIMEOUT", 0.05)
    async with owner() as queue:
        await queue.enqueue("q", b"x")
    monkeypatch.setattr("taquba._objects.places._worked", set())
    with pytest.raises(StoreError, match="does not answer"):
        await Queue.open(URL)


class OneEachTime:
    """Refuses to give out some file of the write-ahead log, once at each try to open."""

    def __init__(self, tries: int) -> None:
        self._tries = tries
        self._again = True
        self.refused = 0

    def __call__(self, method: str, key: str, conditional: bool) -> Odd | None:
        if key.startswith("LIST"):
            # Each try begins with a look at the log.
            self._again = True
        elif method == "GET" and "/wal/" in key and self._again and self.refused < self._tries:
            self._again = False
            self.refused += 1
            return DENIED
        return None


async def test_each_try_to_open_may_meet_an_odd_answer_of_its_own(s3: FaultyS3) -> None:
    await left_with_commits(s3, 20)
    # The engine does not say which file it could not read.
    rule = s3.odd = OneEachTime(4)
    async with owner() as queue:
        assert (await queue.stats("q")).pending == 20
    assert rule.refused == 4


async def test_an_odd_answer_in_a_long_opening_does_not_end_it(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left_with_commits(s3, 5)
    monkeypatch.setattr("taquba._engine.again._REPEATED_SECONDS", 0)
    rule = s3.odd = OneEachTime(1)
    async with owner() as queue:
        assert (await queue.stats("q")).pending == 5
    assert rule.refused == 1


# -- elections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [*REFUSALS, *CARRIED_OUT], ids=named)
async def test_an_odd_answer_costs_nobody_the_lease(s3: FaultyS3, odd: Odd) -> None:
    election = stand_for(StoreLocation.parse(URL), 0.6)
    s3.odd = once("PUT", "election.json", odd)
    async with asyncio.timeout(20):
        await election.win()
    losing = asyncio.create_task(election.lost())
    for method in ("PUT", "GET"):
        # A read follows a write that was refused.
        first = once("PUT", "election.json", FAILED_PRECONDITION)
        second = once(method, "election.json", odd)

        def rule(*request: object, first: OddRule = first, second: OddRule = second) -> Odd | None:
            return first(*request) or second(*request)  # type: ignore[arg-type]

        s3.odd = rule
        await signs(s3, 2)
    assert not losing.done()
    losing.cancel()
    await election.resign()


async def test_a_lease_that_is_read_wrongly_once_is_not_lost(s3: FaultyS3) -> None:
    election = stand_for(StoreLocation.parse(URL), 0.6)
    await election.win()
    losing = asyncio.create_task(election.lost())
    s3.short_reads = 1
    s3.odd = once("PUT", "election.json", FAILED_PRECONDITION)
    await signs(s3, 2)
    assert not s3.short_reads
    assert not losing.done()
    losing.cancel()
    await election.resign()


async def test_a_lease_object_that_was_removed_is_written_again(s3: FaultyS3) -> None:
    election = stand_for(StoreLocation.parse(URL), 0.3)
    await election.win()
    losing = asyncio.create_task(election.lost())
    del s3.objects["prefix/election.json"]
    async with asyncio.timeout(20):
        while "prefix/election.json" not in s3.objects:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.01)
    assert not losing.done()
    losing.cancel()
    await election.resign()


async def signs(s3: FaultyS3, count: int) -> None:
    """Wait until the lease was written that often."""

    def written() -> int:
        return sum(
            (method, key, status) == ("PUT", "prefix/election.json", 200)
            for method, key, status in s3.requests
        )

    goal = written() + count
    async with asyncio.timeout(20):
        while written() < goal:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.01)


# -- refusals that pass --------------------------------------------------------------------------

PASSING = [EXPIRED, NO_BUCKET, DENIED, Odd(401, "Unauthorized"), Odd(403, "InvalidAccessKeyId")]


@pytest.mark.parametrize("odd", PASSING, ids=named)
async def test_a_refusal_that_passes_ends_no_member_of_a_service(
    s3: FaultyS3, odd: Odd, caplog: pytest.LogCaptureFixture
) -> None:
    def member() -> Service:
        return Service(URL, {"q": handle}, takeover_after=0.6)

    caplog.set_level(logging.WARNING)
    async with member() as one, member() as other:
        members = (one, other)
        for each in members:
            await each.enqueue("q", b"")
        async with asyncio.timeout(20):
            while not any(each.role == "owner" for each in members):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # Those of the storage engine are its own.
        s3.odd = lambda _method, key, _: odd if beside_the_engine(key) else None
        await asyncio.sleep(1.5)
        s3.odd = None
        async with asyncio.timeout(20):
            for each in members:
                await each.enqueue("q", b"")
    complaints = [r for r in caplog.records if "election" in r.message or "lease" in r.message]
    assert 0 < len(complaints) <= 4


def beside_the_engine(key: str) -> bool:
    folders = ("wal", "manifest", "compacted", "compactions", "gc")
    return not any(f"prefix/{folder}" in key for folder in folders)


async def test_a_standby_that_has_never_written_outlives_a_refused_write(s3: FaultyS3) -> None:
    holder, standby = (stand_for(StoreLocation.parse(URL), 0.3) for _ in range(2))
    await holder.win()
    waiting = asyncio.create_task(standby.win())
    await signs(s3, 3)
    s3.odd = lambda method, _key, _: DENIED if method == "PUT" else None
    done, _ = await asyncio.wait([waiting], timeout=1.5)
    assert not done
    s3.odd = None
    losing = asyncio.create_task(holder.lost())
    async with asyncio.timeout(20):
        await holder.resign()
        await waiting
    losing.cancel()
    await standby.resign()


async def test_a_place_that_has_never_worked_ends_a_service(s3: FaultyS3) -> None:
    s3.odd = lambda *_: EXPIRED
    async with asyncio.timeout(20):
        with pytest.raises(StoreError, match="refuses the credentials") as caught:
            await run_service(URL, {"q": handle}, takeover_after=1, handle_signals=False)
    assert caught.value.permanent


async def test_a_producer_waits_for_a_refusal_to_pass(s3: FaultyS3) -> None:
    async with owner() as queue, Producer.open(URL) as producer:
        await producer.enqueue("q", b"")
        s3.odd = lambda _method, key, _: EXPIRED if "-inbox" in key else None
        enqueueing = asyncio.create_task(producer.enqueue("q", b""))
        done, _ = await asyncio.wait([enqueueing], timeout=3)
        assert not done
        s3.odd = None
        await enqueueing
        assert await queue.ingest_now() == 2


# -- what packages keep in objects ---------------------------------------------------------------

A_WHILE = 3
"""Reads in a row that do not find an object, and more than one call of the queue makes."""


def not_found(s3: FaultyS3, part: str, times: int) -> None:
    left = [NOT_THERE] * times

    def rule(method: str, key: str, conditional: bool) -> Odd | None:
        is_meant = method == "GET" and part in key and not key.startswith("LIST ")
        return left.pop() if is_meant and left else None

    s3.odd = rule


@job(name="large")
async def large(ctx: JobContext[None]) -> bytes:
    return b"x" * 100_000


async def test_a_large_result_that_is_not_found_for_a_moment_is_read(s3: FaultyS3) -> None:
    async with owner() as queue, JobRunner(queue, jobs=[large], state=None) as runner:
        handle = await runner.submit(large)
        not_found(s3, "/objects/", 2 * A_WHILE)
        assert await handle.join(timeout=20) == b"x" * 100_000


class Remembers:
    async def run_step(self, step: Step) -> StepOutcome:
        known = await step.memo.get("large")
        if known is None:
            await step.memo.put("large", b"x" * 100_000)
            raise ValueError("once more")
        return Succeed(b"known")


async def test_a_large_memo_that_is_not_found_for_a_moment_is_remembered(s3: FaultyS3) -> None:
    config = QueueConfig(max_attempts=2, retry_backoff_base=0)
    async with (
        Queue.open(URL, default_config=config) as queue,
        WorkflowRuntime(queue, Remembers()) as runtime,
    ):
        not_found(s3, "/objects/", 2 * A_WHILE)
        await runtime.submit(RunSpec(b"", run_id="run"))
        status = await runtime.wait_for_completion("run", timeout=20)
        assert status is not None
        assert status.result == b"known"


async def test_a_named_object_that_stays_away_is_an_error_and_one_that_is_not_named_is_none(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taquba.extending.named._PAUSES", (0.0,))
    named = True

    async def is_named() -> bool:
        return named

    async with owner() as queue:
        with pytest.raises(NamedObjectMissing, match="'key' is not found") as caught:
            await read_named(queue, "key", is_named)
        assert not caught.value.permanent
        named = False
        assert await read_named(queue, "key", is_named) is None
