"""Jobs of other versions of a program: older ones are brought up to date, newer ones wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taquba import JobStatus, Queue
from taquba.extending.typed import pack
from taquba.testing import MockClock
from taquba_jobs import FailureKind, JobContext, JobFailed, JobRunner, job

OpenQueue = Callable[..., Awaitable[Queue]]


def greet_versions() -> tuple[Any, Any, Any]:
    @job(name="greet")
    async def first(ctx: JobContext, name: str) -> str:
        return f"hello {name}"

    def split(arguments: dict[str, object]) -> dict[str, object]:
        given, _, family = str(arguments["name"]).partition(" ")
        return {"given": given, "family": family}

    @job(name="greet", version=2, upcast={1: split})
    async def second(ctx: JobContext, given: str, family: str) -> str:
        return f"hello {given} of {family}"

    def title(arguments: dict[str, object]) -> dict[str, object]:
        return {**arguments, "title": "Dr"}

    @job(name="greet", version=3, upcast={1: split, 2: title})
    async def third(ctx: JobContext, given: str, family: str, title: str) -> str:
        return f"hello {title} {given} of {family}"

    return first, second, third


async def test_older_arguments_are_upcast_step_by_step(queue: Queue) -> None:
    first, _, third = greet_versions()
    handle = await JobRunner(queue, jobs=[first]).submit(first, "Ada Lovelace")
    async with JobRunner(queue, jobs=[third]) as runner:
        assert await runner.handle(third, handle.id) == "hello Dr Ada of Lovelace"


async def test_a_new_argument_with_a_default_needs_no_version(queue: Queue) -> None:
    first, _, _ = greet_versions()

    @job(name="greet")
    async def longer(ctx: JobContext, name: str, mark: str = "!", *, loud: bool = True) -> str:
        return f"hello {name}{mark}".upper() if loud else ""

    handle = await JobRunner(queue, jobs=[first]).submit(first, "Ada")
    async with JobRunner(queue, jobs=[longer]) as runner:
        assert await runner.handle(longer, handle.id) == "HELLO ADA!"


async def test_a_newer_version_and_an_unknown_name_are_parked_unspent(
    queue: Queue, mock_clock: MockClock
) -> None:
    first, second, _ = greet_versions()

    @job(name="else")
    async def other(ctx: JobContext) -> int:
        return ctx.attempt

    new = JobRunner(queue, jobs=[second, other])
    newer = await new.submit(second, "Ada", "Lovelace")
    unknown = await new.submit(other)
    foreign = await queue.enqueue("jobs", b"whatever")
    async with JobRunner(queue, jobs=[first]) as old:
        # An hour of a rolling deploy.
        for _ in range(6):
            await mock_clock.advance(600)
        parked = {record.id: record for record in await old.parked()}
        assert await old.parked(limit=1) == list(parked.values())[:1]
    assert set(parked) == {newer.id, unknown.id, foreign.id}
    assert parked[newer.id].last_error == (
        "parked: it has version 2, but job 'greet' has version 1 here"
    )
    assert parked[unknown.id].last_error == "parked: no job 'else' is known here"
    assert parked[foreign.id].last_error == "parked: it names no job"
    for record in parked.values():
        assert (record.status, record.attempts) == (JobStatus.SCHEDULED, 0)
        assert await queue.attempt_history(record.id) == []
    async with new:
        await mock_clock.advance(30)
        assert await newer == "hello Ada of Lovelace"
        assert await unknown == 1


async def test_parked_jobs_do_not_loop(queue: Queue, mock_clock: MockClock) -> None:
    foreign = await queue.enqueue("jobs", b"")
    async with JobRunner(queue, jobs=[]) as runner:
        pauses: list[float] = []
        await mock_clock.advance(0)
        while sum(pauses) < 300:
            [record] = await runner.parked()
            assert record.run_at is not None
            assert record.id == foreign.id
            pauses.append((record.run_at - mock_clock.now()).total_seconds())
            await mock_clock.advance(pauses[-1])
        # First for a moment: the next process that gets it may know it.
        assert pauses[0] == 1
        assert pauses == sorted(pauses)
        assert pauses[-1] == 30


@pytest.mark.parametrize(
    ("payload", "version", "says"),
    [
        (b"\xc1", "1", "the payload cannot be read"),
        (b"\x91", "1", "the payload cannot be read"),
        (pack([1]), "1", "the payload holds list, not the arguments of a job by name"),
        (pack({"name": "x"}), "one", "its header 'jobs.version' is 'one', not a version"),
        (pack({"other": "x"}), "2", "given: Field required; .*other: Extra inputs"),
        (pack({"given": [], "family": "x"}), "2", "given: Input should be a valid string, got"),
        (pack({}), "1", "its upcast from version 1 raised KeyError: 'name'"),
    ],
)
async def test_a_payload_that_cannot_be_decoded_is_a_dead_letter_that_says_why(
    queue: Queue, payload: bytes, version: str, says: str
) -> None:
    _, second, _ = greet_versions()
    headers = {"jobs.name": "greet", "jobs.version": version}
    added = await queue.enqueue("jobs", payload, headers=headers)
    async with JobRunner(queue, jobs=[second]) as runner:
        with pytest.raises(JobFailed, match=says) as failed:
            await runner.handle(second, added.id)
    assert failed.value.kind is FailureKind.INVALID
    record = await queue.get_job(added.id)
    assert record is not None
    assert (record.status, record.attempts) == (JobStatus.DEAD, 1)
    assert record.last_error == failed.value.message


async def test_a_result_that_the_code_no_longer_understands_says_so(queue: Queue) -> None:
    @job(name="change")
    async def texts(ctx: JobContext) -> str:
        return "text"

    @job(name="change")
    async def numbers(ctx: JobContext) -> int:
        return 1

    async with JobRunner(queue, jobs=[texts]) as runner:
        handle = await runner.submit(texts)
        await handle
    with pytest.raises(JobFailed, match="the result was stored as something else") as failed:
        await JobRunner(queue, jobs=[numbers]).handle(numbers, handle.id)
    assert failed.value.kind is FailureKind.INVALID


async def test_a_cancelled_parked_job_is_gone(queue: Queue, mock_clock: MockClock) -> None:
    first, second, _ = greet_versions()
    handle = await JobRunner(queue, jobs=[second]).submit(second, "Ada", "Lovelace")
    async with JobRunner(queue, jobs=[first]) as old:
        await mock_clock.advance(1)
        assert len(await old.parked()) == 1
        await handle.cancel()
        assert await old.parked() == []
    with pytest.raises(JobFailed, match="cancelled"):
        await handle
