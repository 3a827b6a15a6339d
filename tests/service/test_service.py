"""One process of a service: its role, what it enqueues, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    ForkedError,
    InboxNotOpen,
    IncompatibleStore,
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    LeaseHandle,
    ProducerClosed,
    Queue,
    QueueConfig,
    Service,
    StoreError,
    TaqubaError,
    WorkerSpec,
    run_service,
)
from tests.servers.faults import Faults
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server
from tests.service.support import PATIENCE, store_url, until


class Handler:
    """Remembers what it was given, and waits for leave to return."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, job: JobRecord, lease: LeaseHandle) -> None:
        self.started.append(job.id)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise


@pytest.fixture(params=["folder", "S3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request.param, request, tmp_path)


def service(url: str | Path, handler: Handler, **options: Any) -> Service:
    return Service(url, {"q": handler}, takeover_after=2, **options)


async def test_one_process_alone_owns_and_works(url: str) -> None:
    handler = Handler()
    keeps = {"q": QueueConfig(keep_done_jobs=60)}
    async with service(url, handler, queue_configs=keeps) as only:
        # Also before it is the owner, on a store that does not exist yet.
        first = await only.enqueue("q", b"1")
        await until(lambda: only.role == "owner")
        second = await only.enqueue("q", b"2", idempotency_key="two")
        again = await only.enqueue("q", b"2", idempotency_key="two")
        assert (second.new, again) == (True, (second.id, False))
        assert (await only.wait_for_completion(second.id, PATIENCE)).completed
        await until(lambda: len(handler.started) == 2)
        job = await only.get_job(second.id)
        assert job is not None
        assert (await only.stats("q")).done == 2
    assert set(handler.started) == {first.id, second.id}
    assert only.role == "worker"


async def test_a_claim_for_which_a_process_waited_when_it_became_the_owner(tmp_path: Path) -> None:
    async with Service(tmp_path, {}) as only:
        waiting = asyncio.create_task(only.claim("q", wait=PATIENCE))
        await asyncio.sleep(0)
        assert only.role == "worker"
        added = await only.enqueue("q", b"")
        claim = await waiting
        assert claim is not None
        assert (claim.id, only.role) == (added.id, "owner")
        await only.ack(claim)
        assert (await only.stats("q")).done == 1


async def test_both_work_and_the_second_owns_when_the_first_has_ended(url: str) -> None:
    first_handler, second_handler = Handler(), Handler()
    first, second = service(url, first_handler), service(url, second_handler)
    second_handler.open.clear()
    async with second:
        await until(lambda: second.role == "owner")
        async with first:
            # All places of the second are taken.
            blocking = {(await second.enqueue("q", b"")).id for _ in range(8)}
            await until(lambda: len(second_handler.started) + len(first_handler.started) == 8)
            more = {(await first.enqueue("q", b"")).id for _ in range(20)}
            await until(lambda: more <= set(first_handler.started) | set(second_handler.started))
            assert first_handler.started
            assert (first.role, second.role) == ("worker", "owner")
            second_handler.open.set()
            ending = asyncio.create_task(second.__aexit__(None, None, None))
            await until(lambda: first.role == "owner")
            await ending
            last = await first.enqueue("q", b"")
            await until(lambda: last.id in first_handler.started)
        # The block of the second ends once more; nothing is left to end.
        await second.__aenter__()
    started = first_handler.started + second_handler.started
    assert sorted(started) == sorted({*blocking, *more, last.id})


async def test_running_handlers_end_before_the_owner_does(tmp_path: Path) -> None:
    handler = Handler()
    handler.open.clear()
    one = service(tmp_path, handler)
    await one.__aenter__()
    await one.enqueue("q", b"")
    await until(lambda: len(handler.started) == 1)
    ending = asyncio.create_task(one.__aexit__(None, None, None))
    done, _ = await asyncio.wait([ending], timeout=0.1)
    assert not done
    handler.open.set()
    await ending
    async with Queue.open(tmp_path) as queue:
        assert (await queue.stats("q")).done == 1


async def test_handlers_that_take_too_long_are_given_back(tmp_path: Path) -> None:
    handler = Handler()
    handler.open.clear()
    async with service(tmp_path, handler, drain_timeout=0.05) as one:
        receipt = await one.enqueue("q", b"")
        await until(lambda: len(handler.started) == 1)
    assert handler.cancelled == [receipt.id]
    async with Queue.open(tmp_path) as queue:
        job = await queue.get_job(receipt.id)
        assert job is not None
        assert job.attempts == 0


async def test_who_is_fenced_steps_back_and_comes_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Handler()
    handler.open.clear()
    async with service(tmp_path, handler) as one:
        receipt = await one.enqueue("q", b"")
        await until(lambda: len(handler.started) == 1)
        # The claim is stored as well; otherwise its handler would go on in the end.
        await one.kv_put("stored", b"")
        async with Queue.open(tmp_path, inbox=True, take_over=True) as intruder:
            await until(lambda: one.role == "worker")
            # What is enqueued meanwhile waits for whoever takes it.
            later = await one.enqueue("r", b"")
            while await intruder.get_job(later.id) is None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            assert one.role == "worker"
        # Its first attempt was taken back, and has not ended.
        assert (handler.started, handler.cancelled) == ([receipt.id], [])
        handler.open.set()
        await until(lambda: len(handler.started) == 2)
        assert one.role == "owner"
    assert "no longer the owner" in caplog.text


async def test_in_a_bucket_the_service_takes_the_store_back(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = store_url("S3", request, tmp_path)
    handler = Handler()
    async with service(url, handler) as one:
        await until(lambda: one.role == "owner")
        async with Queue.open(url, take_over=True):
            await until(lambda: one.role == "worker")
            await until(lambda: one.role == "owner")
        await one.enqueue("q", b"")
        await until(lambda: len(handler.started) == 1)


async def test_who_is_fenced_while_it_opens_the_store_comes_again(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Handler()
    url = f"{s3_server.root}{tmp_path}"
    async with FaultyProxy(s3_server.endpoint) as proxy:

        async def manifests() -> int:
            return (await proxy.counts()).of(method="PUT", kind="manifest").requests

        for name, value in s3_server.environment(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        async with Queue.open(url):
            pass
        await proxy.clear_counts()
        # So that opening takes long enough for another to come in between.
        await proxy.inject(Faults(latency_ms=100))
        async with service(url, handler) as one:
            async with asyncio.timeout(PATIENCE):
                while not await manifests():  # noqa: ASYNC110 - the server is another process
                    await asyncio.sleep(0.01)
            async with Queue.open(url, take_over=True):
                # It may have been the owner for a moment.
                await until(lambda: one.role == "worker")
            await proxy.calm()
            receipt = await one.enqueue("q", b"")
            await until(lambda: handler.started == [receipt.id])
            assert one.role == "owner"


async def test_a_producer_never_owns(tmp_path: Path) -> None:
    handler = Handler()
    async with service(tmp_path, handler, role="producer", call_timeout=0.1) as one:
        with pytest.raises(InboxNotOpen):
            await one.enqueue("q", b"")
        async with service(tmp_path, handler) as two:
            await until(lambda: two.role == "owner")
            await one.enqueue("q", b"")
            await until(lambda: len(handler.started) == 1)
        assert one.role == "producer"


async def test_what_the_store_cannot_be_is_raised(tmp_path: Path) -> None:
    async with Queue.open(tmp_path):
        pass
    label = tmp_path / "taquba.json"
    await asyncio.to_thread(label.write_text, '{"format": "taquba", "layout": 999}')
    failing = service(tmp_path, Handler())
    with pytest.raises(IncompatibleStore):
        await failing.__aenter__()
    with pytest.raises(IncompatibleStore):
        await failing.enqueue("q", b"")


async def test_a_bucket_that_is_not_there_is_raised(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store_url("S3", request, tmp_path)
    with pytest.raises(StoreError, match="no bucket"):
        async with asyncio.timeout(PATIENCE):
            await run_service("s3://nowhere/p", {"q": Handler()}, handle_signals=False)


async def test_it_works_only_between_its_beginning_and_its_end(tmp_path: Path) -> None:
    one = service(tmp_path, Handler())
    with pytest.raises(InvalidArgument, match="async with"):
        await one.enqueue("q", b"")
    async with one:
        await one.enqueue("q", b"")
    with pytest.raises(ProducerClosed):
        await one.enqueue("q", b"")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path, Handler()) as one:
        await one.enqueue("q", b"")
        if (pid := os.fork()) == 0:
            code = 1
            try:
                one.enqueue("q", b"").send(None)
            except ForkedError:
                code = 0
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await one.enqueue("q", b"")


async def test_signals_end_it(tmp_path: Path) -> None:
    handler = Handler()
    running = asyncio.create_task(run_service(tmp_path, {"q": handler}))
    async with service(tmp_path, handler, role="producer") as producer:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await producer.enqueue("q", b"")
                    break
                except InboxNotOpen:
                    await asyncio.sleep(0.01)
        await until(lambda: len(handler.started) >= 1)
        handler.open.clear()
        last = await producer.enqueue("q", b"")
        await until(lambda: last.id in handler.started)
    os.kill(os.getpid(), signal.SIGTERM)
    done, _ = await asyncio.wait([running], timeout=0.1)
    assert not done
    # A second one does not wait for the handler.
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, PATIENCE)
    assert handler.cancelled == [last.id]


async def test_shutdown_ends_it(tmp_path: Path) -> None:
    shutdown = asyncio.Event()
    running = asyncio.create_task(
        run_service(tmp_path, {"q": Handler()}, shutdown=shutdown, handle_signals=False)
    )
    await asyncio.sleep(0)
    shutdown.set()
    await asyncio.wait_for(running, PATIENCE)


BAD: list[tuple[tuple[Any, ...], dict[str, Any], type[TaqubaError], str]] = [
    (("memory://", {}), {}, InvalidArgument, "memory://"),
    (("x", {}), {"role": "king"}, InvalidArgument, "'king'"),
    (("x", "mail"), {}, InvalidArgumentType, "'mail'"),
    (("x", {"": print}), {}, InvalidArgument, "queue name"),
    (("x", {"q": 7}), {}, InvalidArgumentType, "7"),
    (("x", [("q", print)]), {}, InvalidArgumentType, "WorkerSpec"),
    (("x", [WorkerSpec("q", print), WorkerSpec("q", max)]), {}, InvalidArgument, "two handlers"),
    (("x", {"q": print}), {"takeover_after": 0.01}, InvalidArgument, "takeover_after"),
    (("x", {"q": print}), {"drain_timeout": -1}, InvalidArgument, "drain_timeout"),
    (("x", {"q": print}), {"default_config": 1}, InvalidArgumentType, "default_config"),
    (("x", {"q": print}), {"flush_interval": -1}, InvalidArgument, "flush_interval"),
    (("x", {"q": print}), {"inbox": False}, InvalidArgument, "inbox"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "text"), BAD)
def test_bad_input_is_refused_when_it_is_made(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[TaqubaError], text: str
) -> None:
    with pytest.raises(error, match=text):
        Service(*arguments, **options)


def test_handlers_may_be_worker_specs() -> None:
    Service("x", [WorkerSpec("q", print, concurrency=5), WorkerSpec("r", print)])


@pytest.mark.parametrize("role", ["auto", "worker", "producer"])
async def test_a_place_that_cannot_be_used_is_told_at_the_entry(tmp_path: Path, role: Any) -> None:
    place = tmp_path / "file"
    await asyncio.to_thread(place.write_text, "no folder")
    with pytest.raises(StoreError, match="file"):
        async with Service(place, role=role):
            pytest.fail("entered")


async def test_members_start_in_any_order(tmp_path: Path) -> None:
    handler = Handler()
    async with (
        Service(tmp_path / "s", role="producer") as producer,
        service(tmp_path / "s", handler, role="worker") as worker,
    ):
        asking = asyncio.create_task(producer.kv_get("x"))
        await asyncio.sleep(0.05)
        async with Service(tmp_path / "s") as owner:
            assert await asking is None
            added = await producer.enqueue("q", b"")
            await until(lambda: handler.started == [added.id])
            assert (owner.role, worker.role) == ("owner", "worker")
