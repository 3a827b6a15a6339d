"""Damaged rows of jobs: each is named, and hinders nothing else."""

from __future__ import annotations

import msgpack
import pytest

from taquba import Queue, StoreError
from taquba.testing import MockClock
from taquba_jobs import JobRunner
from taquba_jobs._outcomes import all_progress
from tests.jobs.support import Deps, double, entries

DAMAGED = [b"", b"\xc1", msgpack.packb(7), msgpack.packb([1]), msgpack.packb(["x", 2])]


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_an_idempotency_key_whose_row_cannot_be_read_is_free(
    queue: Queue, row: bytes
) -> None:
    async with JobRunner(queue, jobs=[double], state=Deps()) as runner:
        assert await (await runner.submit(double, 3)) == 6
        (key,) = [entry.key for entry in await entries(queue, "jobs/key/")]
        await queue.kv_put(key, row)
        again = await runner.submit(double, 3)
        assert again.new
        assert await again == 6


async def test_a_row_of_a_newer_version_is_not_taken_for_damaged(queue: Queue) -> None:
    runner = JobRunner(queue, jobs=[double], state=Deps())
    await runner.submit(double, 3)
    (key,) = [entry.key for entry in await entries(queue, "jobs/key/")]
    await queue.kv_put(key, msgpack.packb([2, "id"]))
    with pytest.raises(StoreError, match="newer taquba_jobs"):
        await runner.submit(double, 3)


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_an_outcome_that_cannot_be_read_is_named(queue: Queue, row: bytes) -> None:
    async with JobRunner(queue, jobs=[double], state=Deps()) as runner:
        handle = await runner.submit(double, 3)
        await handle
        await queue.kv_put(f"jobs/outcome/{handle.id}", row)
        with pytest.raises(StoreError, match=f"'jobs/outcome/{handle.id}'.*delete it"):
            await handle.status()


@pytest.mark.parametrize("key", ["odd", "00000000000001/x", "-1/x"])
@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_the_sweep_goes_on_past_what_it_cannot_read(
    queue: Queue, mock_clock: MockClock, key: str, row: bytes
) -> None:
    await queue.kv_put(f"jobs/expiry/{key}", row)
    async with JobRunner(queue, jobs=[double], state=Deps(), result_retention=60) as runner:
        for _ in range(2):
            handle = await runner.submit(double, 3)
            assert await handle == 6
            await mock_clock.advance(61)
            assert await handle.status() is None
    assert [entry.key for entry in await entries(queue)] == [f"jobs/expiry/{key}"]


async def test_an_outcome_that_cannot_be_read_does_not_end_the_sweep(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with JobRunner(queue, jobs=[double], state=Deps(), result_retention=60) as runner:
        damaged, good = await runner.submit(double, 1), await runner.submit(double, 2)
        assert (await damaged, await good) == (2, 4)
        await queue.kv_put(f"jobs/outcome/{damaged.id}", b"\xc1")
        await mock_clock.advance(61)
        assert await good.status() is None
        assert await (await runner.submit(double, 1)) == 2


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_reports_that_cannot_be_read_are_listed_as_such(queue: Queue, row: bytes) -> None:
    good = msgpack.packb([1, 1.0, 2.0, "note", 0])
    await queue.kv_put("jobs/progress/a", row)
    await queue.kv_put("jobs/progress/b", good)
    found = [(job_id, str(report)) async for job_id, report in all_progress(queue)]
    assert [job_id for job_id, _ in found] == ["a", "b"]
    assert "'jobs/progress/a' should be a job's progress" in found[0][1]
