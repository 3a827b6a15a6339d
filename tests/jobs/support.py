"""Jobs that the tests of taquba_jobs share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from taquba import JobRecord, JobStatus, KvEntry, Queue
from taquba_jobs import JobContext, job


@dataclass
class Deps:
    """What the tests' jobs find as ``ctx.state``."""

    calls: list[object] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0


@job(name="double", idempotency_key=lambda number: str(number))
async def double(ctx: JobContext[Deps], number: int) -> int:
    ctx.state.calls.append(number)
    return 2 * number


@job(name="shout")
async def shout(ctx: JobContext[Deps], text: str, *, times: int = 1) -> str:
    ctx.state.calls.append(text)
    return text.upper() * times


@job(name="wait", idempotency_key=lambda name: name)
async def wait(ctx: JobContext[Deps], name: str) -> str:
    ctx.state.calls.append(name)
    await ctx.state.gate.wait()
    return name


@job(name="flaky", max_attempts=3)
async def flaky(ctx: JobContext[Deps], message: str) -> int:
    """Fails as often as the state says, then returns its attempt."""
    ctx.state.calls.append(ctx.attempt)
    if ctx.state.failures > 0:
        ctx.state.failures -= 1
        raise ConnectionError(message)
    return ctx.attempt


async def entries(queue: Queue, prefix: str = "jobs/") -> list[KvEntry[str]]:
    """Every entry of taquba_jobs in a store."""
    return (await queue.kv_scan(prefix, limit=10_000)).entries


async def dead(queue: Queue, name: str = "jobs") -> list[JobRecord]:
    return (await queue.list_jobs(name, JobStatus.DEAD)).jobs


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, not only events
            await asyncio.sleep(0.001)
