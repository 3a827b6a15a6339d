"""Secrets are shown nowhere: not in errors and their causes, logs, reasons, or what doctor says."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from taquba import (
    FailWith,
    InvalidArgument,
    JobRecord,
    LeaseHandle,
    PermanentFailure,
    Producer,
    Queue,
    QueueConfig,
    QueueReader,
    Service,
    SettlementEffects,
    Snooze,
    StoreError,
    TaqubaError,
)
from taquba.doctor import examine
from taquba.testing import MockClock, drain
from taquba_bulk import Bulk, BulkContext
from taquba_jobs import JobContext, JobFailed, JobRunner, SubmitOptions, job
from taquba_workflow import RunFailed, WorkflowContext, WorkflowRuntime, workflow
from tests.queue.support import OpenQueue, must_claim
from tests.servers.faulty_s3 import FaultyS3

SECRET = "hunter2hunter2"
URL = "s3://bucket/prefix"


def whole(error: BaseException) -> str:
    """All that an error shows anywhere: its traceback with its causes, and what it is made of."""
    return "".join([*traceback.format_exception(error), repr(error), str(vars(error))])


async def open_queue(url: str) -> None:
    async with Queue.open(url):
        pass


async def open_reader(url: str) -> None:
    async with QueueReader.open(url):
        pass


async def open_producer(url: str) -> None:
    async with Producer.open(url):
        pass


async def open_service(url: str) -> None:
    async with Service(url, {}):
        pass


openings = pytest.mark.parametrize("open_", [open_queue, open_reader, open_producer])


@pytest.fixture
def endpoint_with_password(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> FaultyS3:
    endpoint = s3.environment()["AWS_ENDPOINT"]
    monkeypatch.setenv("AWS_ENDPOINT", endpoint.replace("://", f"://admin:{SECRET}@"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    return s3


@openings
@pytest.mark.parametrize("fault", ["no rights", "other region"])
async def test_a_password_in_an_endpoint_is_not_shown_by_what_cannot_be_opened(
    endpoint_with_password: FaultyS3,
    caplog: pytest.LogCaptureFixture,
    open_: Callable[[str], Awaitable[None]],
    fault: str,
) -> None:
    caplog.set_level(logging.DEBUG, "taquba")
    endpoint_with_password.faults.add(fault)
    with pytest.raises(TaqubaError) as caught:
        await open_(URL)
    assert SECRET not in whole(caught.value)
    assert SECRET not in caplog.text


@openings
@pytest.mark.parametrize("endpoint", [f"htp://admin:{SECRET}@h", f"admin:{SECRET}@127.0.0.1:9000"])
async def test_a_password_in_an_endpoint_that_cannot_be_used_is_not_shown(
    s3: FaultyS3,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    open_: Callable[[str], Awaitable[None]],
    endpoint: str,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", endpoint)
    with pytest.raises(TaqubaError) as caught:
        await open_(URL)
    assert SECRET not in whole(caught.value)
    assert SECRET not in caplog.text


async def test_doctor_shows_no_password(endpoint_with_password: FaultyS3) -> None:
    for fault in ("", "no rights"):
        endpoint_with_password.faults = {fault}
        diagnosis = await examine(URL)
        assert SECRET not in repr(diagnosis)
        assert diagnosis.ok is not bool(fault)


async def test_an_owner_shows_no_password_while_its_bucket_fails(
    endpoint_with_password: FaultyS3, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "taquba")
    async with Queue.open("memory://", payload_url=URL, payload_offload_threshold=10) as queue:
        await queue.enqueue("q", bytes(100))
        await queue.objects.put("a", b"")
        endpoint_with_password.faults.add("no rights")
        for call in (
            queue.objects.get("a"),
            queue.claim("q"),
        ):
            with pytest.raises(StoreError) as caught:
                await call
            assert SECRET not in whole(caught.value)
        (job,) = (await queue.list_jobs("q", "scheduled", payloads=False)).jobs
        assert "could not be read" in str(job.last_error)
        assert SECRET not in str(job.last_error)
        endpoint_with_password.faults.clear()
    assert "could not be read" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIA:{SECRET}@bucket/prefix",
        f"s3://{SECRET}@bucket/prefix",
        f"s3:/AKIA:{SECRET}@bucket/prefix",
        f"https://AKIA:{SECRET}@bucket/prefix",
        f"s3://bucket/prefix?secret_access_key={SECRET}",
        f"az://container/prefix?{SECRET}",
        f"file://me:{SECRET}@host/data",
        f"S3://AKIA:{SECRET}@bucket/prefix",
        f"s3://AKIA:{SECRET}@bucket",
        f"s3://[AKIA:{SECRET}@bucket/prefix",
    ],
)
@pytest.mark.parametrize("open_", [open_queue, open_reader, open_producer, open_service, examine])
async def test_store_urls_with_secrets_are_refused_and_not_shown(
    open_: Callable[[str], Awaitable[Any]], url: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await open_(url)
    assert SECRET not in whole(caught.value)


# -- what handlers say --------------------------------------------------------------------------

LEAK = f"403 for url 'https://me:{SECRET}@h.example/x?sig={SECRET}', Authorization: Bearer {SECRET}"


def failing() -> list[BaseException]:
    request = httpx.Request("GET", f"https://me:{SECRET}@h.example/x?token={SECRET}")
    response = httpx.Response(403, request=request)
    failed = httpx.HTTPStatusError(f"refused: {request.url!r}?token={SECRET}", request=request,
                                   response=response)  # fmt: skip
    chained = RuntimeError("no answer")
    chained.__cause__ = OSError(LEAK)
    return [
        ValueError(LEAK),
        failed,
        chained,
        PermanentFailure(LEAK),
        FailWith(LEAK, SettlementEffects(kv_writes={"k": b"v"})),
        FailWith(ValueError(LEAK), SettlementEffects()),
        Snooze(1, LEAK),
        ExceptionGroup("several", [ValueError(LEAK)]),
        BaseException(LEAK),
    ]


@pytest.mark.parametrize("error", failing(), ids=lambda error: type(error).__name__)
async def test_what_a_handler_says_is_kept_and_logged_without_secrets(
    open_queue: OpenQueue,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    caplog.set_level(logging.DEBUG, "taquba")
    queue = await open_queue(default_config=QueueConfig(max_attempts=2))
    job_id, _ = await queue.enqueue("q", b"")

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        raise error

    await drain(queue, "q", handler)
    found = await queue.get_job(job_id)
    assert found is not None
    assert found.last_error
    assert SECRET not in found.last_error
    for attempt in await queue.attempt_history(job_id):
        assert SECRET not in str(attempt)
    assert SECRET not in caplog.text


@job(name="leak")
async def leak(ctx: JobContext[None]) -> None:
    raise ValueError(LEAK)


@workflow(name="leak")
async def leaking(ctx: WorkflowContext) -> None:
    await ctx.step(leak_in_step)


async def leak_in_step() -> None:
    raise PermanentFailure(LEAK)


async def leak_in_item(ctx: BulkContext[int]) -> None:
    raise PermanentFailure(LEAK)


async def test_what_packages_keep_and_say_of_failures_shows_no_secrets(
    queue: Queue, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "taquba")
    shown: list[object] = []
    async with JobRunner(queue, jobs=[leak], state=None) as runner:
        handle = await runner.submit_with(SubmitOptions(max_attempts=1), leak)
        with pytest.raises(JobFailed) as failed:
            await handle
        shown += [failed.value, failed.value.message]
    async with WorkflowRuntime(queue, workflows=[leaking]) as runtime:
        run = await runtime.start(leaking)
        with pytest.raises(RunFailed) as ended:
            await run
        shown += [ended.value, await runtime.status(run.run_id), await runtime.history(run.run_id)]
    report = await Bulk(queue, leak_in_item).run([1])
    shown += [report]
    assert SECRET not in str(shown) + caplog.text
    page = await queue.kv_scan(b"")
    assert page.entries
    assert not [entry.key for entry in page.entries if SECRET.encode() in entry.value]


async def test_reasons_given_to_the_queue_are_kept_without_secrets(queue: Queue) -> None:
    for settle in (queue.nack, queue.dead_letter):
        await queue.enqueue("q", b"")
        claim = await must_claim(queue)
        await settle(claim, LEAK)
    for status in ("scheduled", "dead"):
        (job,) = (await queue.list_jobs("q", status)).jobs
        assert str(job.last_error).startswith("403 for url 'https://***@h.example/x?sig=***'")
        assert SECRET not in str(job.last_error)
