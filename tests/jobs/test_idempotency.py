"""One key, one job: in races, across restarts, with other arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from taquba import CancelOutcome, InvalidArgument, InvalidArgumentType, Queue, QueueConfig
from taquba_jobs import (
    InputMismatch,
    JobContext,
    JobFailed,
    JobRunner,
    gather,
    job,
    payload_idempotency_key,
)
from tests.crash.held_engine import hold_engine
from tests.jobs.support import Deps, double, entries, flaky, until, wait
from tests.queue.support import fresh_url

OpenQueue = Callable[..., Awaitable[Queue]]


@job(name="sum", idempotency_key=lambda numbers, label: label, max_attempts=1)
async def total(ctx: JobContext[Deps], numbers: list[int], label: str = "x") -> int:
    ctx.state.calls.append(label)
    if not numbers:
        raise ValueError("nothing to add")
    return sum(numbers)


def runner_of(queue: Queue, deps: Deps) -> JobRunner[Deps]:
    return JobRunner(queue, jobs=[double, total, wait, flaky], state=deps)


async def test_racing_submitters_of_a_key_get_one_job(queue: Queue) -> None:
    deps = Deps()
    # Two runners of one queue, too: the key belongs to the store.
    runners = [runner_of(queue, deps), runner_of(queue, deps)]
    async with runners[0]:
        handles = await gather(runners[n % 2].submit(double, 7) for n in range(200))
        assert len({handle.id for handle in handles}) == 1
        assert sum(handle.new for handle in handles) == 1
        assert await gather(handles) == [14] * 200
    assert deps.calls == [7]


async def test_the_same_key_attaches_to_a_running_job(queue: Queue) -> None:
    deps = Deps()
    async with runner_of(queue, deps) as runner:
        first = await runner.submit(wait, "a")
        await until(lambda: bool(deps.calls))
        second = await runner.submit(wait, name="a")
        assert (second.id, second.new) == (first.id, False)
        deps.gate.set()
        assert await second == "a"
    assert deps.calls == ["a"]


async def test_a_submission_that_meets_an_ended_job_returns_when_that_is_durable(
    queue: Queue,
) -> None:
    """A job may be run to its end before its own submission is durable."""
    held = hold_engine(queue, timeout=20)
    async with runner_of(queue, Deps()) as runner:
        held.hold("flush")
        first = asyncio.create_task(runner.submit(double, 7))
        async with asyncio.timeout(10):
            while not await entries(queue, "jobs/outcome/"):  # noqa: ASYNC110 - until it is applied
                await asyncio.sleep(0.001)
        second = asyncio.create_task(runner.submit(double, 7))
        assert not (await asyncio.wait([first, second], timeout=0.1))[0]
        held.release()
        assert (await second).id == (await first).id


async def test_cancelling_an_ended_job_says_so_when_that_is_durable(queue: Queue) -> None:
    held = hold_engine(queue, timeout=20)
    async with runner_of(queue, Deps()) as runner:
        held.hold("flush")
        submitting = asyncio.create_task(runner.submit(double, 7))
        async with asyncio.timeout(10):
            while not (found := await entries(queue, "jobs/outcome/")):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
        handle = runner.handle(double, found[0].key.rpartition("/")[2])
        cancelling = asyncio.create_task(handle.cancel())
        assert not (await asyncio.wait([submitting, cancelling], timeout=0.1))[0]
        held.release()
        await submitting
        assert await cancelling is CancelOutcome.NOT_FOUND


async def test_the_same_key_returns_the_stored_outcome_also_after_a_restart(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    deps = Deps()
    queue = await open_queue(url)
    async with runner_of(queue, deps) as runner:
        first = await runner.submit(total, [1, 2])
        assert await first == 3
        failing = await runner.submit(total, [], "empty")
        with pytest.raises(JobFailed):
            await failing
    await queue.close()
    async with runner_of(await open_queue(url), deps) as runner:
        again = await runner.submit(total, [1, 2])
        assert (again.id, again.new) == (first.id, False)
        assert await again == 3
        with pytest.raises(JobFailed, match="nothing to add"):
            await (await runner.submit(total, [], "empty"))
    assert deps.calls == ["x", "empty"]


async def test_other_arguments_under_a_key_are_refused(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    deps = Deps()
    runner = runner_of(queue, deps)
    first = await runner.submit(total, [1, 2])
    before = await entries(queue)
    for label in ("waiting", "finished"):
        with pytest.raises(
            InputMismatch, match="under the key 'x' with other arguments"
        ) as refused:
            await runner.submit(total, [1, 3])
        assert (refused.value.job, refused.value.key) == ("sum", "x"), label
        assert refused.value.job_id == first.id
        if label == "waiting":
            assert await entries(queue) == before
            async with runner:
                await first
    await queue.close()
    with pytest.raises(InputMismatch):
        await runner_of(await open_queue(url), deps).submit(total, [3])
    assert deps.calls == ["x"]


async def test_keys_of_different_jobs_are_different(queue: Queue) -> None:
    async with runner_of(queue, Deps()) as runner:
        assert await (await runner.submit(total, [1], "5")) == 1
        assert await (await runner.submit(double, 5)) == 10


async def test_a_cancelled_submitter_does_not_open_the_key_for_a_second_job(queue: Queue) -> None:
    runner = runner_of(queue, Deps())
    for turns in range(12):
        first = asyncio.create_task(runner.submit(double, turns))
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        second = await runner.submit(double, turns)
        third = await runner.submit(double, turns)
        assert second.id == third.id
        await asyncio.gather(first, return_exceptions=True)
    jobs = await queue.list_jobs("jobs", "pending")
    keys = [record.headers["jobs.key"] for record in jobs.jobs]
    assert len(set(keys)) == len(keys) == 12


async def test_a_waiting_job_that_is_cancelled_gives_its_key_back(queue: Queue) -> None:
    deps = Deps()
    runner = runner_of(queue, deps)
    first = await runner.submit(double, 3)
    assert await first.cancel() is CancelOutcome.REMOVED
    with pytest.raises(JobFailed, match="cancelled before it ran"):
        await first
    second = await runner.submit(double, 3)
    assert second.new
    async with runner:
        assert await second == 6


async def test_a_job_that_somebody_removed_does_not_block_its_key(queue: Queue) -> None:
    runner = runner_of(queue, Deps())
    first = await runner.submit(total, [1])
    assert await queue.cancel(first.id) is CancelOutcome.REMOVED
    # Not even other arguments: nothing is left of the first one.
    second = await runner.submit(total, [2])
    assert second.new
    async with runner:
        assert await second == 2


async def test_a_dead_letter_that_is_requeued_runs_again_and_its_outcome_counts(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    deps = Deps(failures=3)
    async with runner_of(queue, deps) as runner:
        handle = await runner.submit(flaky, "no route")
        with pytest.raises(JobFailed):
            await handle
        await queue.requeue_dead(handle.id)
        assert await runner.handle(flaky, handle.id) == 1
        assert await handle == 1
        assert deps.calls == [1, 2, 3, 1]


@job(name="by.payload", idempotency_key=payload_idempotency_key)
async def by_payload(ctx: JobContext, data: dict[str, int], *, tag: str = "") -> int:
    return len(data)


async def test_equal_arguments_are_one_job_by_payload_key(queue: Queue) -> None:
    runner = JobRunner(queue, jobs=[by_payload])
    first = await runner.submit(by_payload, {"a": 1, "b": 2})
    same = await runner.submit(by_payload, data={"b": 2, "a": 1}, tag="")
    other = await runner.submit(by_payload, {"a": 1})
    assert same.id == first.id
    assert other.id != first.id


@job(name="odd", idempotency_key=lambda key: key)
async def odd(ctx: JobContext, key: object) -> None: ...


async def test_a_key_is_a_text_or_none(queue: Queue) -> None:
    runner = JobRunner(queue, jobs=[odd])
    with pytest.raises(InvalidArgumentType, match="must be a str or None, not 5"):
        await runner.submit(odd, 5)
    with pytest.raises(InvalidArgument, match="1 to 1024 UTF-8 bytes; got 2000"):
        await runner.submit(odd, "ä" * 1000)
    with pytest.raises(InvalidArgument, match="got 0"):
        await runner.submit(odd, "")
    ids = {(await runner.submit(odd, None)).id for _ in range(2)}
    assert len(ids) == 2
