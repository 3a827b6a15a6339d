"""What the type checkers know of jobs, their arguments and their results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import assert_type

from taquba import CancelOutcome, CancelToken, JobRecord, Queue, QueueReader, Store
from taquba_jobs import (
    FailureKind,
    InputMismatch,
    JobContext,
    JobFailed,
    JobHandle,
    JobProgress,
    JobRunner,
    JobState,
    PlainJob,
    SubmitOptions,
    as_completed,
    fetch_progress,
    fetch_result,
    fetch_status,
    gather,
    job,
    payload_idempotency_key,
)


class Deps:
    token: str = ""


class OtherDeps:
    pass


def by_receiver(to: str, subject: str) -> str:
    return f"{to}:{subject}"


@job(name="send", max_attempts=5, idempotency_key=by_receiver)
async def send(ctx: JobContext[Deps], to: str, subject: str = "") -> str:
    assert_type(ctx.state, Deps)
    assert_type(ctx.state.token, str)
    assert_type(ctx.job_id, str)
    assert_type(ctx.attempt, int)
    assert_type(ctx.cancel_token, CancelToken)
    assert_type(ctx.store, Store)
    assert_type(ctx.progress(1, 10, "note"), None)
    child = await ctx.submit(count, b"x")
    assert_type(child, JobHandle[int])
    await ctx.submit(count, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return to


@job(name="count", idempotency_key=payload_idempotency_key, timeout=timedelta(seconds=5))
def count(ctx: JobContext, data: bytes) -> int:
    print(ctx.state.token)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    return len(data)


@job(name="other")
async def other(ctx: JobContext[OtherDeps]) -> None: ...


def rename(arguments: dict[str, object]) -> dict[str, object]:
    return arguments


@job(name="v2", version=2, upcast={1: rename}, queue="own", priority=5)
async def version_two(ctx: JobContext[Deps], /, *numbers: int, **names: str) -> list[int]:
    return list(numbers)


def without_context() -> None: ...


job(name="x")(without_context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
job("x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
job(max_attempts=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
job(name="x", max_attempts="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def calling(ctx: JobContext[Deps]) -> None:
    assert_type(await send(ctx, "a@b.c"), str)
    assert_type(count(ctx, b""), int)
    await send(ctx, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def middleware(
    ctx: JobContext[Deps], call_next: Callable[[JobContext[Deps]], Awaitable[object]]
) -> object:
    return await call_next(ctx.with_state(ctx.state))


async def running(queue: Queue, pool: ProcessPoolExecutor, deps: Deps) -> None:
    runner = JobRunner(
        queue,
        jobs=[send, count, version_two],
        state=deps,
        queue_name="mail",
        concurrency=8,
        executor=pool,
        middleware=[middleware],
        classify=lambda error: "permanent" if isinstance(error, ValueError) else "transient",
        result_retention=timedelta(days=1),
        drain_timeout=5,
    )
    assert_type(runner, JobRunner[Deps])
    assert_type(JobRunner(queue, jobs=[count]), JobRunner[None])
    # The functions need a state, and the right one.
    JobRunner(queue, jobs=[send])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    JobRunner(queue, jobs=[send, other], state=deps)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    JobRunner(queue, jobs=[without_context], state=deps)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    async with runner as entered:
        assert_type(entered, JobRunner[Deps])

    handle = await runner.submit(send, to="a@b.c", subject="Hi")
    assert_type(handle, JobHandle[str])
    assert_type(handle.id, str)
    assert_type(handle.new, bool)
    assert_type(await handle, str)
    assert_type(await handle.join(5), str)
    assert_type(await handle.fetch_result(), str | None)
    assert_type(await handle.status(), JobState | None)
    assert_type(await handle.progress(), JobProgress | None)
    assert_type(await handle.cancel(), CancelOutcome)
    assert_type(await (await runner.submit(count, b"x")), int)
    assert_type(await (await runner.submit(version_two, 1, 2, a="b")), list[int])
    options = SubmitOptions(
        priority=5, max_attempts=2, delay=timedelta(hours=1), headers={"a": "b"}
    )
    assert_type(await runner.submit_with(options, send, "a@b.c"), JobHandle[str])
    assert_type(runner.handle(send, "id"), JobHandle[str])
    assert_type(await runner.parked(), list[JobRecord])

    await runner.submit(send)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await runner.submit(send, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runner.submit(send, "a", nope=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await runner.submit(without_context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runner.submit(other)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runner.submit_with(send, "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SubmitOptions(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    SubmitOptions(delay="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def many(handles: list[JobHandle[int]], reader: QueueReader) -> None:
    assert_type(await gather(handles, concurrency=5), list[int])
    async for handle in as_completed(handles):
        assert_type(handle, JobHandle[int])
    assert_type(await fetch_result(reader, count, "id"), int | None)
    assert_type(await fetch_status(reader, "id"), JobState | None)
    assert_type(await fetch_progress(reader, "id"), JobProgress | None)


def failing(failed: JobFailed, mismatch: InputMismatch) -> None:
    assert_type(failed.kind, FailureKind)
    assert_type(failed.message, str)
    assert_type(failed.job_id, str)
    assert_type(mismatch.key, str)


def in_unit_tests(deps: Deps) -> None:
    assert_type(JobContext.detached(deps), JobContext[Deps])


plain: PlainJob[object, [bytes], int] = count
