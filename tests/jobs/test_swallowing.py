"""A function that swallows its cancellation is left behind when its time is over."""

from __future__ import annotations

import asyncio

import pytest

from taquba import Queue
from taquba.testing import MockClock
from taquba_jobs import FailureKind, JobContext, JobFailed, JobRunner, _attempt, job
from tests.jobs.support import until

begun: list[str] = []


@job(name="swallows", timeout=5, max_attempts=1)
async def swallows(ctx: JobContext, what: str) -> None:
    begun.append(what)
    while True:
        try:
            await asyncio.sleep(0.01)
        except BaseException:
            continue


@pytest.mark.parametrize("what", ["timed_out", "cancelled"])
async def test_a_function_that_goes_on_when_it_is_stopped_is_left_behind(
    queue: Queue, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(_attempt, "_CLEAN_UP_SECONDS", 0.05)
    async with JobRunner(queue, jobs=[swallows]) as runner:
        handle = await runner.submit(swallows, what)
        await until(lambda: what in begun)
        if what == "cancelled":
            await handle.cancel()
        else:
            await mock_clock.advance(5)
        with pytest.raises(JobFailed) as failed:
            async with asyncio.timeout(10):
                await handle
        assert failed.value.kind is FailureKind(what)


@job(name="insists", timeout=5, max_attempts=1)
async def insists(ctx: JobContext, what: str) -> None:
    begun.append(what)
    while True:
        try:
            await ctx.submit(insists, 1)  # type: ignore[arg-type]
        except BaseException:
            continue


@pytest.mark.parametrize("what", ["insists until its time is over", "insists until it is left"])
async def test_a_function_that_repeats_a_refused_submission_lets_others_run(
    queue: Queue, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(_attempt, "_CLEAN_UP_SECONDS", 0.05)
    async with asyncio.timeout(10), JobRunner(queue, jobs=[insists]) as runner:
        handle = await runner.submit(insists, what)
        await until(lambda: what in begun)
        if what.endswith("left"):
            await handle.cancel()
        else:
            await mock_clock.advance(5)
        with pytest.raises(JobFailed):
            await handle
