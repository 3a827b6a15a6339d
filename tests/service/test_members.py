"""A process of a service that is not the owner can ask for everything."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    AttemptOutcome,
    CancelOutcome,
    Claim,
    ClaimLost,
    EnqueueRequest,
    InvalidArgument,
    JobRecord,
    JobStatus,
    LeaseHandle,
    OwnerUnreachable,
    Queue,
    QueueConfig,
    Service,
    SettlementEffects,
    Store,
    StoreError,
    StoreFenced,
    WorkerSpec,
)
from taquba._line import methods
from taquba._line.address import socket_path
from taquba._line.client import CallFailed, SocketClient
from taquba._line.values import dump_arguments
from taquba._objects.location import StoreLocation
from tests.servers.faults import Faults
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server
from tests.service.support import children

CHILD = Path(__file__).with_name("member_child.py")
SECONDS = 20


@pytest.fixture
async def owner(short_path: Path) -> AsyncIterator[Queue]:
    no_wait = QueueConfig(retry_backoff_base=0, retry_jitter=0)
    async with Queue.open(
        short_path / "s", inbox=True, producer_socket=True, fsync=False, default_config=no_wait
    ) as queue:
        yield queue


def member_of(place: Path, **options: Any) -> Service:
    return Service(place / "s", {}, role="producer", fsync=False, **options)


@pytest.fixture
async def member(owner: Queue, short_path: Path) -> AsyncIterator[Service]:
    async with member_of(short_path) as service:
        yield service


async def must_claim(store: Store, **options: Any) -> Claim:
    claim = await store.claim("q", wait=SECONDS, **options)
    assert claim is not None
    return claim


@contextlib.asynccontextmanager
async def child(place: Path, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), str(place / "s"), str(count), stdin=pipe, stdout=pipe
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def held_by(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        return (await process.stdout.readline()).decode().split()


async def test_the_jobs_of_a_process_that_is_killed_are_suspects_at_once(
    owner: Queue, short_path: Path
) -> None:
    ids = [(await owner.enqueue("q", b"")).id for _ in range(3)]
    async with child(short_path, 3) as process:
        assert await held_by(process) == ids
        process.kill()
        await process.wait()
        async with asyncio.timeout(2):
            while (await owner.stats("q")).claimed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    for job_id in ids:
        job = await owner.get_job(job_id)
        assert job is not None
        assert (job.suspect, job.attempts) == (True, 0)
        (attempt,) = await owner.attempt_history(job_id)
        assert (attempt.outcome, attempt.counted) == (AttemptOutcome.INTERRUPTED, False)
        assert "its process has ended" in (attempt.error or "")


async def test_a_process_that_leaves_gives_its_jobs_back(owner: Queue, short_path: Path) -> None:
    job_id = (await owner.enqueue("q", b"")).id
    async with child(short_path, 1) as process:
        assert await held_by(process) == [job_id]
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0
    claim = await must_claim(owner)
    assert (claim.id, claim.suspect, claim.attempts) == (job_id, False, 1)


async def test_a_claim_is_told_of_its_cancellation_and_of_its_end(
    owner: Queue, member: Service
) -> None:
    await owner.enqueue("q", b"")
    claim = await must_claim(member, lease=0.2)
    assert await owner.cancel(claim.id) is CancelOutcome.REQUESTED
    async with asyncio.timeout(SECONDS):
        await claim.cancel_token.wait()
        while await member.lease_expiry(claim) is not None:
            await owner.reap_now()
            await asyncio.sleep(0.05)
    with pytest.raises(ClaimLost):
        await member.ack(claim)


async def test_a_claim_goes_on_at_the_next_owner(short_path: Path) -> None:
    place = short_path / "s"
    keeps = QueueConfig(keep_done_jobs=60)
    options: dict[str, Any] = {"inbox": True, "producer_socket": True, "default_config": keeps}
    first = await Queue.open(place, fsync=False, **options)
    async with member_of(short_path) as member:
        await first.enqueue("q", b"")
        claim = await must_claim(member)
        await first.close()
        async with Queue.open(place, fsync=False, **options) as second:
            await member.renew_lease(claim, 60)
            assert await second.cancel(claim.id) is CancelOutcome.REQUESTED
            async with asyncio.timeout(SECONDS):
                await claim.cancel_token.wait()
            await member.ack(claim, SettlementEffects(kv_writes={"done": b"yes"}))
            assert await member.kv_get("done") == b"yes"
            (attempt,) = await member.attempt_history(claim.id)
            assert (attempt.attempt, attempt.outcome) == (1, AttemptOutcome.COMPLETED)


async def test_a_claim_that_nobody_names_returns(short_path: Path) -> None:
    place = short_path / "s"
    first = await Queue.open(place, inbox=True, producer_socket=True, fsync=False)
    async with member_of(short_path) as member:
        await first.enqueue_batch([EnqueueRequest("q", b"")] * 2)
        own = await first.claim("q")
        assert own is not None
        claim = await must_claim(member)
        await first.close()
        async with Queue.open(place, inbox=True, producer_socket=True, fsync=False) as second:
            again = await must_claim(second)
            assert (again.id, again.attempts, again.suspect) == (own.id, 1, False)
            await member.ack(claim)
            await second.ack(again)
            assert (await second.stats("q")).done == 2


async def test_a_claim_of_a_caller_that_has_gone_is_given_back(
    owner: Queue, member: Service
) -> None:
    chance = random.Random(7)
    for _ in range(40):
        waiting = asyncio.ensure_future(member.claim("q", wait=SECONDS))
        await asyncio.sleep(chance.random() * 0.004)
        await owner.enqueue("q", b"")
        await asyncio.sleep(chance.random() * 0.004)
        waiting.cancel()
        (claim,) = await asyncio.gather(waiting, return_exceptions=True)
        if not isinstance(claim, Claim):
            claim = await must_claim(owner)
            await owner.ack(claim)
        else:
            await member.ack(claim)
    stats = await owner.stats("q")
    assert (stats.done, stats.pending, stats.claimed) == (40, 0, 0)


async def test_one_call_waits_and_another_is_answered(member: Service) -> None:
    waiting = asyncio.ensure_future(must_claim(member))
    results = await member.enqueue_batch([EnqueueRequest("other", b"") for _ in range(20)])
    assert all(result.new for result in results)
    assert (await member.stats("other")).pending == 20
    await member.enqueue("q", b"")
    await member.ack(await waiting)


async def test_objects_are_read_and_written_without_the_owner(
    owner: Queue, member: Service
) -> None:
    await member.objects.put("a/b", b"x" * 300_000)
    assert await owner.objects.get("a/b") == b"x" * 300_000
    await owner.objects.put("a/c", b"y")
    assert sorted([info.key async for info in member.objects.list("a")]) == ["a/b", "a/c"]
    await member.objects.delete(["a/b"])
    assert await owner.objects.get("a/b") is None


async def test_a_large_payload_comes_whole(owner: Queue, member: Service) -> None:
    payload = bytes(range(256)) * 8192
    job_id = (await member.enqueue("q", payload)).id
    record = await member.get_job(job_id)
    assert record is not None
    assert record.payload == payload
    (listed,) = (await member.list_jobs("q", JobStatus.PENDING)).jobs
    assert listed.payload == payload
    claim = await must_claim(member)
    assert claim.payload == payload
    await member.ack(claim)


async def test_an_answer_that_is_too_large_says_what_to_ask_for(
    owner: Queue, member: Service
) -> None:
    for _ in range(3):
        await owner.enqueue("q", bytes(7 * 1024 * 1024))
    with pytest.raises(InvalidArgument, match="payloads=False"):
        await member.list_jobs("q", "pending")
    page = await member.list_jobs("q", "pending", payloads=False)
    assert len(page.jobs) == 3
    assert len((await member.list_jobs("q", "pending", limit=2)).jobs) == 2


async def test_without_an_owner_a_call_waits_for_one(short_path: Path) -> None:
    place = short_path / "s"
    async with Queue.open(place, inbox=True, fsync=False):
        pass
    async with member_of(short_path, call_timeout=0.2) as hasty:
        with pytest.raises(OwnerUnreachable):
            await hasty.stats("q")
        assert (await hasty.enqueue("q", b"by the inbox")).new
    async with member_of(short_path) as member:
        asked = asyncio.ensure_future(member.kv_compare_put("k", None, b"v"))
        await asyncio.sleep(0.3)
        assert not asked.done()
        async with Queue.open(place, inbox=True, producer_socket=True, fsync=False) as owner:
            assert await asked
            assert await owner.kv_get("k") == b"v"


async def test_no_call_fails_while_owners_hand_over(short_path: Path) -> None:
    """Each follows one that closes: nothing is done twice, and nothing is left out."""
    place = short_path / "s"
    done = 0
    over = asyncio.Event()

    async def count(member: Service, name: str) -> int:
        number = 0
        while not over.is_set():
            before = b"%d" % number if number else None
            assert await member.kv_compare_put(name, before, b"%d" % (number + 1))
            number += 1
        return number

    async with member_of(short_path) as member:
        counting: list[asyncio.Future[int]] = []
        for term in range(6):
            async with Queue.open(place, inbox=True, producer_socket=True, fsync=False) as owner:
                if not term:
                    counting += [asyncio.ensure_future(count(member, f"n{n}")) for n in range(8)]
                seen = done
                async with asyncio.timeout(SECONDS):
                    while done < seen + 50:
                        await asyncio.sleep(0.01)
                        rows = [await owner.kv_get(f"n{n}") for n in range(8)]
                        done = sum(int(row or b"0") for row in rows)
        async with Queue.open(place, inbox=True, producer_socket=True, fsync=False) as owner:
            over.set()
            numbers = await asyncio.gather(*counting)
            assert [await owner.kv_get(f"n{n}") for n in range(8)] == [b"%d" % n for n in numbers]


async def test_what_a_killed_owner_may_have_done_is_said_to_be_unknown(
    short_path: Path, tmp_path: Path
) -> None:
    async with (
        children(str(short_path / "s"), tmp_path, takeover=1) as processes,
        member_of(short_path) as member,
    ):
        await processes.start()
        first = await processes.owner()
        await processes.start()
        unknown = 0
        for term in range(2):
            killing = asyncio.get_running_loop().call_later(0.2, first.process.kill)
            for number in range(400):
                name = f"{term}/{number}"
                try:
                    assert await member.kv_compare_put(name, None, b"v")
                except StoreError:
                    unknown += 1
                # What may be repeated is, until there is an owner.
                assert await member.kv_get(name) in (b"v", None)
                await member.kv_put(name, b"w")
                await asyncio.sleep(0.002)
            killing.cancel()
            assert await member.kv_get(f"{term}/399") == b"w"
            await processes.start()
            first = await processes.owner()
        assert unknown <= 4


async def test_other_bytes_than_a_call_harm_nobody(owner: Queue, short_path: Path) -> None:
    path = await asyncio.to_thread(socket_path, StoreLocation.parse(short_path / "s"))
    client = await SocketClient.connect(path)
    for method, arguments, kind in [
        (methods.STORE, ("stats", b"\xc1"), "Unreadable"),
        (methods.STORE, ("stats", b"\x90"), "UnknownCall"),
        (methods.STORE, ("close", b"\x90"), "UnknownCall"),
        (methods.STORE, ("__init__", b"\x90"), "UnknownCall"),
        (methods.STORE, ("wait_for_jobs_on", b"\x90"), "UnknownCall"),
        (methods.STORE, ("ack", b"\x92\xa5claim\x93\xa4list\x01\x02"), "UnknownCall"),
        (methods.STORE, ("ack", b"\x92\xa5claim\x93\xa4list\x01\xa1x"), "ClaimLost"),
        (methods.STORE, (5, b""), "UnknownCall"),
        (methods.STORE, (), "UnknownCall"),
        (methods.ABOUT, (1,), "UnknownCall"),
    ]:
        with pytest.raises(CallFailed) as refused:
            await client.call(SECONDS, method, *arguments)
        assert refused.value.kind == kind
    for tokens in (None, "x", b"1", b"1" * 8):
        with contextlib.suppress(CallFailed):
            await client.call(SECONDS, methods.RELEASE, "no reason", tokens)
    assert client.connected
    await client.close()
    assert (await owner.stats("q")).pending == 0


async def test_claims_of_one_connection_are_not_taken_for_those_of_another(
    short_path: Path,
) -> None:
    """Each owner names the claims of a process anew."""
    place = short_path / "s"
    async with member_of(short_path) as member:
        first = await Queue.open(place, inbox=True, producer_socket=True, fsync=False)
        await first.enqueue_batch([EnqueueRequest("q", b"")] * 3)
        lost, kept = await must_claim(member), await must_claim(member)
        await first.close()
        async with Queue.open(place, inbox=True, fsync=False) as between:
            for old in (lost, kept):
                claim = await must_claim(between)
                assert claim.id == old.id
                await between.ack(claim)
        async with Queue.open(place, inbox=True, producer_socket=True, fsync=False) as second:
            new = await must_claim(member)
            for old in (lost, kept):
                with pytest.raises(ClaimLost):
                    await member.ack(old)
                with pytest.raises(ClaimLost):
                    await member.nack(old, "late")
                assert await member.lease_expiry(old) is None
            assert await member.lease_expiry(new) is not None
            await member.ack(new)
            assert (await second.stats("q")).done == 3


async def test_a_token_of_another_job_settles_nothing(owner: Queue, short_path: Path) -> None:
    path = await asyncio.to_thread(socket_path, StoreLocation.parse(short_path / "s"))
    await owner.enqueue("q", b"", job_id="mine")
    client = await SocketClient.connect(path)
    asked = dump_arguments({"queue": "q", "max_jobs": 1})
    await client.call(SECONDS, methods.STORE, "claim_batch", asked)
    settles = dump_arguments({"claim": [1, "other"]})
    with pytest.raises(CallFailed, match="ClaimLost"):
        await client.call(SECONDS, methods.STORE, "ack", settles)
    assert (await owner.stats("q")).claimed == 1
    await client.call(SECONDS, methods.STORE, "ack", dump_arguments({"claim": [1, "mine"]}))
    assert (await owner.stats("q")).done == 1
    await client.close()


async def test_a_settlement_that_its_owner_has_not_stored_is_made_at_the_next(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{s3_server.root}{tmp_path}"
    opens = partial(Queue.open, url, inbox=True, producer_socket=True, take_over=True)
    async with FaultyProxy(s3_server.endpoint) as proxy:
        for name, value in s3_server.environment(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        first = await opens()
        async with Service(url, {}, role="producer") as member:
            added = await first.enqueue("q", b"")
            claim = await must_claim(member)
            await first.kv_put("claim", b"stored")
            # The next owner may write again.
            await proxy.inject(Faults(hang=1, limit=1, methods=("PUT",), kinds=("wal",)))
            settling = asyncio.create_task(member.ack(claim))
            async with asyncio.timeout(SECONDS):
                while (await first.stats("q")).claimed:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            async with opens() as second:
                await proxy.calm()
                with contextlib.suppress(StoreError, StoreFenced):
                    await first.close()
                assert await settling == []
                assert (await second.stats("q")).done == 1
                assert await second.get_job(added.id) is None


async def test_calls_that_wait_leave_room_for_what_they_wait_for(short_path: Path) -> None:
    """More than a connection has under way otherwise: their ends come over the same connection."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        begun.set()
        await go_on.wait()

    async with (
        Queue.open(short_path, inbox=True, producer_socket=True, fsync=False),
        Service(short_path, [WorkerSpec("q", handle)], role="worker", fsync=False) as member,
    ):
        added = await member.enqueue_batch([EnqueueRequest("q", b"")] * 2000)
        waits = [asyncio.create_task(member.wait_for_completion(job.id, 60)) for job in added]
        await begun.wait()
        # Until they are all under way.
        await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            assert (await member.stats("q")).pending > 0
            go_on.set()
            await waits[0]
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
