"""Random functions, with random crashes, against a plain interpreter."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from taquba import Queue, QueueConfig
from taquba_workflow import (
    ChildFailed,
    StartOptions,
    WorkflowContext,
    WorkflowRuntime,
    current_step,
    step,
    workflow,
)
from tests.workflow.functions.audit import Histories, audit, check_grown, read_histories
from tests.workflow.functions.plain import BACKOFF, Moment, Picture, Program, World, look
from tests.workflow.real_runs import RealRuns

RUN_IDS = ["r0", "r1"]
CONFIG = QueueConfig(max_attempts=10_000, retry_backoff_base=0, retry_jitter=0)
"""More attempts than there are crashes: how many attempts a crash costs is not certain."""


# -- the function that runs all programs --------------------------------------------------------


@step(max_attempts=100, backoff=BACKOFF)
async def work(name: str, failures: int) -> str:
    if current_step().attempt <= failures:
        raise ValueError("try again")
    return name


undone: set[str] = set()


async def undo(name: str) -> None:
    undone.add(name)


@workflow(name="follow")
async def follow(ctx: WorkflowContext, program: list[list[Any]]) -> str:
    return " ".join(await run(ctx, program))


async def run(ctx: WorkflowContext, program: Program) -> list[str]:
    trace: list[str] = []
    for kind, *arguments in program:
        match kind, arguments:
            case "step", [name, failures]:
                trace.append(await ctx.step(work, name, failures))
            case "sleep", [seconds]:
                await ctx.sleep(seconds)
            case "wait", [key, timeout]:
                signal = await ctx.wait_signal(key, timeout)
                trace.append("-" if signal is None else signal.decode())
            case "gather", [programs]:
                branches = await ctx.gather(*(run(ctx, inner) for inner in programs))
                trace += [f"({' '.join(branch)})" for branch in branches]
            case "child", [inner]:
                try:
                    trace.append(f"[{await ctx.child(follow, inner)}]")
                except ChildFailed as error:
                    trace.append(f"[{error.reason}]")
            case "undo", [name]:
                ctx.on_failure(undo, name)
            case "raise", [name]:
                raise LookupError(name)
            case _:
                raise AssertionError(kind)
    return trace


# -- what is drawn ------------------------------------------------------------------------------


class Start(NamedTuple):
    run: str


class Signal(NamedTuple):
    run: str
    number: int


class CancelRun(NamedTuple):
    run: str


class Advance(NamedTuple):
    seconds: int


Event = Start | Signal | CancelRun | Advance

Pictures = tuple[dict[str, Picture], dict[str, str]]
"""What is known of each run, and the signals that nobody has taken."""

run_ids = st.sampled_from(RUN_IDS)
seconds = st.integers(0, 4)
simple = st.one_of(
    st.tuples(st.just("step"), st.sampled_from([0, 0, 0, 1, 2])),
    st.tuples(st.just("sleep"), seconds),
    st.tuples(st.just("wait"), st.none() | seconds),
    st.tuples(st.just("undo")),
    st.tuples(st.just("raise")),
)
shapes = st.recursive(
    st.lists(simple, max_size=4),
    lambda inner: st.lists(
        simple
        | st.tuples(st.just("gather"), st.lists(inner, max_size=3))
        | st.tuples(st.just("child"), inner),
        max_size=4,
    ),
    max_leaves=4,
)
events = st.one_of(
    st.builds(Start, run_ids),
    st.builds(Signal, run_ids, st.integers(0, 3)),
    st.builds(CancelRun, run_ids),
    st.builds(Advance, seconds),
)
crashes = st.none() | st.integers(0, 15)


def name_all(run_id: str, shape: Any) -> Program:
    """A shape as a program: each of its steps, signals and compensations has a name of its own."""
    numbers = itertools.count()
    keys = itertools.count()

    def program(shape: Any) -> list[list[Any]]:
        return [call(*parts) for parts in shape]

    def call(kind: str, *details: Any) -> list[Any]:
        match kind:
            case "gather":
                return [kind, [program(branch) for branch in details[0]]]
            case "child":
                return [kind, program(details[0])]
            case "wait":
                return [kind, f"{run_id}/{next(keys)}", *details]
            case "sleep":
                return [kind, *details]
            case _:
                return [kind, f"{run_id}.{next(numbers)}", *details]

    return program(shape)


# -- a real store -------------------------------------------------------------------------------


class Real(RealRuns[Event, Pictures]):
    def __init__(self, programs: dict[str, Program]) -> None:
        super().__init__(CONFIG)
        self._programs = programs

    def runtime_on(self, queue: Queue) -> WorkflowRuntime:
        return WorkflowRuntime(queue, workflows=[follow])

    async def begin(self, event: Event, payload: str) -> None:
        match event:
            case Start(run_id):
                options = StartOptions(run_id=run_id)
                await self.runtime.start_with(options, follow, self._arguments(run_id))
            case Signal(run_id, number):
                await self.runtime.signal(f"{run_id}/{number}", payload.encode())
            case CancelRun(run_id):
                await self.runtime.cancel(run_id)
            case Advance(length):
                await self.clock.advance(length)

    def _arguments(self, run_id: str) -> list[list[Any]]:
        return [list(op) for op in self._programs[run_id]]

    async def picture(self) -> Pictures:
        runs: dict[str, Picture] = {}
        for run_id in RUN_IDS:
            status = await self.runtime.status(run_id)
            if status is None:
                continue
            starts = None
            if status.starts_at is not None:
                starts = (status.starts_at - self.start) // timedelta(seconds=1)
            said = status.reason
            if status.result is not None:
                said = await self.runtime.handle(follow, run_id).fetch_result()
            keys = frozenset(status.signal_keys)
            runs[run_id] = Picture(status.state.value, said, starts, keys)
        return runs, await self.buffered_signals()


# -- what is expected ---------------------------------------------------------------------------


class Plain:
    """The same events, and what follows from them."""

    def __init__(self, programs: dict[str, Program]) -> None:
        self._programs = programs
        self._starts: dict[str, Moment] = {}
        self._cancels: dict[str, Moment] = {}
        self._world = World()

    def perform(self, event: Event, payload: str) -> None:
        world = self._world
        world.now = Moment(world.now.second, world.now.event + 1)
        match event:
            case Start(run_id):
                self._starts.setdefault(run_id, world.now)
            case Signal(run_id, number):
                key = f"{run_id}/{number}"
                world.signals.setdefault(key, []).append((world.now, payload))
            case CancelRun(run_id):
                if run_id in self._starts:
                    self._cancels.setdefault(run_id, world.now)
            case Advance(length):
                world.now = Moment(world.now.second + length, world.now.event)
                world.ticks.append(world.now)

    def picture(self) -> Pictures:
        world = self._world
        runs = {
            run_id: look(self._programs[run_id], start, world, self._cancels.get(run_id))
            for run_id, start in self._starts.items()
        }
        buffered: dict[str, str] = {}
        for key, sent in world.signals.items():
            moment, payload = sent[-1]
            if key not in world.taken or world.taken[key] < moment:
                buffered[key] = payload
        return runs, buffered

    def undone(self) -> set[str]:
        self.picture()
        return self._world.undone


@settings(max_examples=settings().max_examples // 2)
@given(st.tuples(shapes, shapes), st.lists(st.tuples(events, crashes), max_size=12))
def test_functions_do_what_a_plain_interpreter_does(
    drawn: tuple[Any, Any], happenings: list[tuple[Event, int | None]]
) -> None:
    programs = {
        run_id: name_all(run_id, shape) for run_id, shape in zip(RUN_IDS, drawn, strict=True)
    }
    undone.clear()
    asyncio.run(compare(programs, happenings))


async def compare(programs: dict[str, Program], happenings: list[tuple[Event, int | None]]) -> None:
    real, plain = Real(programs), Plain(programs)
    await real.open()
    recorded: Histories = {}
    payloads = (f"<{number}>" for number in itertools.count())
    try:
        for event, crash in happenings:
            payload = next(payloads)
            before = plain.picture()
            plain.perform(event, payload)
            after = plain.picture()
            # Time stands still while the process dies.
            if crash is None or isinstance(event, Advance):
                await real.perform(event, payload)
            else:
                await real.perform_through_a_crash(event, payload, crash, before, after)
            assert await real.picture() == after
            assert undone == plain.undone()
            await audit(real.queue)
            grown = await read_histories(real.queue)
            check_grown(recorded, grown)
            recorded = grown
    finally:
        await real.close()
