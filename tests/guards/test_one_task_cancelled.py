"""One internal task is cancelled, and nothing else: what it belongs to goes on, or says so.

Nothing may live on half dead: a call either does what it says, or raises a `TaqubaError` soon.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    JobRecord,
    LeaseHandle,
    Producer,
    Queue,
    QueueConfig,
    Service,
    TaqubaError,
    WorkerSpec,
    run_workers,
)
from taquba_bulk import Bulk, BulkContext
from taquba_cron import CronScheduler
from taquba_jobs import JobContext, JobRunner, job
from taquba_workflow import WorkflowContext, WorkflowRuntime, workflow

SECONDS = 5
LARGE = b"x" * 300_000

OF_THE_TEST = {
    "Bulk.run",
    "CronScheduler.run",
    "JobRunner.run",
    "Producer.stats",
    "Program._function_works",
    "Program._producer_works",
    "Program._queue_works",
    "Program._service_works",
    "Program._typed_works",
    "Service.run",
    "WorkflowRuntime.run",
    "run_workers",
}
"""Tasks that the program here makes: who cancels these is told so by the cancellation itself."""


@job(name="double")
async def double(ctx: JobContext[None], number: int) -> int:
    ctx.progress(1, 2)
    return 2 * number


@workflow(name="triple")
async def triple(ctx: WorkflowContext, number: int) -> int:
    await ctx.sleep(0.001)
    return 3 * number


async def item(ctx: BulkContext[int]) -> int:
    return ctx.input


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number


class Program:
    """Every part of taquba in one program, and what each of them is there for."""

    def __init__(self, queue: Queue, producer: Producer, service: Service) -> None:
        self._queue = queue
        self._producer = producer
        self._service = service
        self._handled: dict[bytes, asyncio.Event] = {}
        self.runner = JobRunner(queue, jobs=[double])
        self.runtime = WorkflowRuntime(queue, workflows=[triple])
        self.cron = CronScheduler(queue)

    async def handle(self, job: JobRecord, lease: LeaseHandle) -> None:
        self._event(job.payload).set()

    def _event(self, payload: bytes) -> asyncio.Event:
        return self._handled.setdefault(payload[:9], asyncio.Event())

    def lives(self, stop: asyncio.Event) -> dict[str, Coroutine[Any, Any, object]]:
        """What goes on until it is told to stop."""
        spec = WorkerSpec("q", self.handle, concurrency=3, on_cancel="interrupt")
        return {
            "work": run_workers(self._queue, spec, shutdown=stop, handle_signals=False),
            "typed": self.runner.run(stop),
            "function": self.runtime.run(stop),
            "cron": self.cron.run(stop),
            "bulk": Bulk(self._queue, item, queue_name="bulk").run(numbers(), stop),
        }

    def calls(self, turn: int) -> dict[str, Coroutine[Any, Any, object]]:
        """What each part does, as calls that end when it has been done."""
        mark = f"{turn}".encode().ljust(9)
        return {
            "work": self._queue_works(b"a" + mark),
            "large": self._queue_works(b"b" + mark + LARGE),
            "producer": self._producer_works(b"c" + mark),
            "service": self._service_works(b"d" + mark),
            "typed": self._typed_works(),
            "function": self._function_works(),
            "asked": self._producer.stats("q"),
        }

    async def _queue_works(self, payload: bytes) -> None:
        await self._queue.enqueue("q", payload)
        await self._event(payload).wait()

    async def _producer_works(self, payload: bytes) -> None:
        await self._producer.enqueue("q", payload)
        await self._event(payload).wait()

    async def _service_works(self, payload: bytes) -> None:
        await self._service.enqueue("q", payload)

    async def _typed_works(self) -> None:
        assert await (await self.runner.submit(double, 2)) == 4

    async def _function_works(self) -> None:
        assert await (await self.runtime.start(triple, 2)) == 6


class Cancelling:
    """Cancels the first task of a coroutine function.

    Args:
        victim: Its qualified name; None cancels nothing.
        begun: Whether the task takes its first step before.
    """

    def __init__(self, victim: str | None, *, begun: bool) -> None:
        self.seen: Counter[str] = Counter()
        self._victim = victim
        self._begun = begun

    def __call__(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        code = getattr(work, "cr_code", None)
        if code is not None and "/src/taquba" in code.co_filename:
            name = work.__qualname__
            self.seen[name] += 1
            if name == self._victim and self.seen[name] == 1:
                if self._begun:
                    loop.call_soon(loop.call_soon, task.cancel)
                else:
                    task.cancel()
        return task


async def trouble_of(folder: Path, cancelling: Cancelling) -> list[str]:
    """What neither works nor fails clearly."""
    url = str(folder / "store")
    config = QueueConfig(retry_backoff_base=0)
    loop = asyncio.get_running_loop()
    troubles: list[str] = []
    loop.set_task_factory(cancelling)
    try:
        async with AsyncExitStack() as stack:
            opening = Queue.open(
                url, fsync=False, inbox=True, producer_socket=True, default_config=config
            )
            queue = await stack.enter_async_context(opening)
            producer = await stack.enter_async_context(Producer.open(url, fsync=False))
            service = Service(url, [], role="producer", fsync=False)
            troubles += await _trouble_with(queue, Program(queue, producer, service), service)
            async with asyncio.timeout(SECONDS):
                await stack.aclose()
    except TaqubaError:
        pass
    except (TimeoutError, asyncio.CancelledError) as error:
        troubles.append(f"opening or closing: {error!r}")
    finally:
        loop.set_task_factory(None)
    return troubles


async def _trouble_with(queue: Queue, program: Program, service: Service) -> list[str]:
    troubles: list[str] = []
    stop = asyncio.Event()
    lives = {name: asyncio.create_task(work) for name, work in program.lives(stop).items()}
    lives["service"] = asyncio.create_task(service.run(stop))
    await asyncio.sleep(0.01)
    for turn in range(2):
        calls = {name: asyncio.create_task(work) for name, work in program.calls(turn).items()}
        of = {name: lives.get(name, lives["work"]) for name in calls}
        deadline = asyncio.get_running_loop().time() + SECONDS
        while waiting := {
            name for name, call in calls.items() if not (call.done() or of[name].done())
        }:
            if queue._owner.failure is not None:
                break
            if asyncio.get_running_loop().time() > deadline:
                troubles += [f"{name} hangs" for name in waiting]
                break
            both = {calls[name] for name in waiting} | {of[name] for name in waiting}
            await asyncio.wait(both, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
        for name, call in calls.items():
            if not call.done():
                call.cancel()
            elif not _is_clear(call):
                troubles.append(f"{name}: {_said(call)}")
        await asyncio.wait(calls.values())
    stop.set()
    _, hanging = await asyncio.wait(lives.values(), timeout=SECONDS)
    for name, life in lives.items():
        if life in hanging:
            troubles.append(f"{name} does not stop")
            life.cancel()
        elif not _is_clear(life):
            troubles.append(f"{name} ended: {_said(life)}")
    if hanging:
        await asyncio.wait(hanging)
    return troubles


def _is_clear(task: asyncio.Task[Any]) -> bool:
    """Whether a task has done its work, or says in our words why not."""
    if task.cancelled():
        return False
    error = task.exception()
    return error is None or isinstance(error, TaqubaError)


def _said(task: asyncio.Task[Any]) -> str:
    return "cancelled" if task.cancelled() else repr(task.exception())


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("begun", [False, True], ids=["before it begins", "when it has begun"])
async def test_what_loses_a_task_goes_on_or_says_so(short_path: Path, begun: bool) -> None:
    found = Cancelling(None, begun=begun)
    assert await trouble_of(short_path / "all", found) == []
    ours = sorted(found.seen.keys() - OF_THE_TEST)
    assert len(ours) > 15
    troubles = {
        name: await trouble_of(short_path / str(number), Cancelling(name, begun=begun))
        for number, name in enumerate(ours)
    }
    assert {name: trouble for name, trouble in troubles.items() if trouble} == {}
