"""Arguments and results of jobs come back as they were, or are refused before anything is lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from taquba import InvalidArgument, InvalidArgumentType, Queue
from taquba_jobs import (
    FailureKind,
    JobContext,
    JobFailed,
    JobRunner,
    job,
    payload_idempotency_key,
)
from tests.extending.kinds import KINDS, Kind, alike


def echo(kind: Kind, seen: list[Any]) -> Any:
    """A job that takes a value of a kind."""

    async def take(ctx: JobContext, value: Any) -> None:
        seen.append(value)

    take.__annotations__["value"] = kind.annotation
    return job(name=kind.name.replace(" ", "-").replace(",", ""))(take)


def give(kind: Kind) -> Any:
    """A job that returns a value of a kind."""

    async def give(ctx: JobContext) -> Any:
        return kind.value()

    give.__annotations__["return"] = kind.annotation
    return job(name=kind.name.replace(" ", "-").replace(",", ""))(give)


async def test_arguments_reach_the_function_as_they_are_or_are_refused(queue: Queue) -> None:
    seen: list[Any] = []
    jobs = {kind: echo(kind, seen) for kind in KINDS}
    async with JobRunner(queue, jobs=jobs.values()) as runner:
        for kind, function in jobs.items():
            if kind.kept:
                await (await runner.submit(function, kind.value()))
                assert alike(kind.value(), seen.pop()), kind
            else:
                with pytest.raises(InvalidArgument, match=f"job {function.name!r}.*: value"):
                    await runner.submit(function, kind.value())
    assert seen == []
    stats = await queue.stats("jobs")
    assert (stats.pending, stats.scheduled, stats.dead) == (0, 0, 0)


async def test_results_come_back_as_they_are_or_fail_their_job(queue: Queue) -> None:
    jobs = {kind: give(kind) for kind in KINDS}
    async with JobRunner(queue, jobs=jobs.values()) as runner:
        for kind, function in jobs.items():
            handle = await runner.submit(function)
            if kind.kept:
                assert alike(kind.value(), await handle), kind
                assert alike(kind.value(), await handle), kind
            else:
                with pytest.raises(JobFailed, match="the result cannot be stored") as failed:
                    await handle
                assert failed.value.kind is FailureKind.INVALID
                assert (await queue.attempt_history(handle.id))[-1].attempt == 1


@job(name="total", idempotency_key=payload_idempotency_key)
async def total(ctx: JobContext, numbers: Iterable[int]) -> int:
    return sum(numbers)


async def test_what_can_be_read_once_is_there_for_the_key_and_for_the_function(
    queue: Queue,
) -> None:
    async with JobRunner(queue, jobs=[total]) as runner:
        first = await runner.submit(total, [1, 2, 3])
        again = await runner.submit(total, (number for number in (1, 2, 3)))
        assert (first.new, again.new) == (True, False)
        assert (await first, await again) == (6, 6)


@job(name="report")
async def report(ctx: JobContext, progress: list[Any]) -> str:
    try:
        ctx.progress(*progress)
    except (InvalidArgument, InvalidArgumentType) as error:
        return str(error)
    return "stored"


@pytest.mark.parametrize(
    ("progress", "says"),
    [
        ([1.5, 10**18, "a note"], "stored"),
        (["5"], "done must be a number"),
        ([True], "done must be a number"),
        ([1, 2**70], "total must be between"),
        ([1, 2, b"note"], "note must be a str"),
    ],
)
async def test_progress_that_cannot_be_stored_is_refused(
    queue: Queue, progress: list[Any], says: str
) -> None:
    async with JobRunner(queue, jobs=[report]) as runner:
        assert (await (await runner.submit(report, progress))).startswith(says)


@job(name="zoned", idempotency_key=payload_idempotency_key)
async def zoned(ctx: JobContext, zone: ZoneInfo) -> str:
    return zone.key


async def test_arguments_that_are_written_out_by_their_annotation_make_a_key(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[zoned]) as runner:
        first = await runner.submit(zoned, ZoneInfo("Asia/Tokyo"))
        again = await runner.submit(zoned, ZoneInfo("Asia/Tokyo"))
        other = await runner.submit(zoned, ZoneInfo("Europe/Berlin"))
        assert (again.id, again.new, other.new) == (first.id, False, True)
        assert await other == "Europe/Berlin"
