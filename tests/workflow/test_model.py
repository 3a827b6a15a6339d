"""Random runs, with random crashes, against a plain interpreter."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from taquba import Queue
from taquba_workflow import (
    After,
    Cancel,
    Continue,
    Fail,
    OnSignal,
    RunSpec,
    RunState,
    Step,
    StepError,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)
from tests.workflow.audit import Told, audit, mark
from tests.workflow.plain_runs import End, Go, PlainRuns, PlainStep, Program, Wait
from tests.workflow.real_runs import RealRuns
from tests.workflow.support import EAGER, Runs

RUN_IDS = ["r0", "r1", "r2"]
ATTEMPTS = 10_000
"""More than there are crashes: how many attempts a crash costs is not certain."""


class Submit(NamedTuple):
    run: str


class Signal(NamedTuple):
    run: str
    name: str


class CancelRun(NamedTuple):
    run: str


class Advance(NamedTuple):
    seconds: int


Event = Submit | Signal | CancelRun | Advance

Picture = tuple[dict[str, tuple[object, ...]], dict[str, str]]
"""What is known of each run, and the signals that nobody has taken."""

names = st.sampled_from("ab")
run_ids = st.sampled_from(RUN_IDS)
seconds = st.integers(0, 4)
middles = st.one_of(st.builds(Go, st.none() | seconds), st.builds(Wait, names, st.none() | seconds))
ends = st.builds(End, st.sampled_from(["succeeded", "failed", "cancelled", "broken"]))
failures = st.sampled_from([0, 0, 0, 1, 2])
programs = st.builds(
    lambda middle, end: (*middle, end),
    st.lists(st.builds(PlainStep, middles, failures), max_size=4),
    st.builds(PlainStep, ends, failures),
)
events = st.one_of(
    st.builds(Submit, run_ids),
    st.builds(Signal, run_ids, names),
    st.builds(CancelRun, run_ids),
    st.builds(Advance, seconds),
)
crashes = st.none() | st.integers(0, 12)


class Real(RealRuns[Event, Picture]):
    def __init__(self, programs: dict[str, Program], *, replay: bool) -> None:
        super().__init__(EAGER)
        self._programs = programs
        self._replay = replay

    def runtime_on(self, queue: Queue) -> WorkflowRuntime:
        return WorkflowRuntime(
            queue, Runs(self._step), hook=Told(), step_output_replay=self._replay
        )

    async def _step(self, step: Step) -> StepOutcome:
        program = self._programs[step.run_id]
        does, failing = program[step.step_number]
        if step.attempts <= failing:
            raise ValueError("try again")
        seen = step.payload
        if step.step_number and isinstance(program[step.step_number - 1].does, Wait):
            seen += b"-" if step.signal is None else step.signal
        match does:
            case Go(None):
                outcome: StepOutcome = Continue(seen)
            case Go(int(delay)):
                outcome = Continue(seen, After(delay))
            case Wait(name, timeout):
                outcome = Continue(seen, OnSignal(f"{step.run_id}/{name}", timeout))
            case End("succeeded"):
                outcome = Succeed(seen)
            case End("failed"):
                # Without its mark, as the audit expects of all but those that succeed.
                return Fail(seen.decode())
            case End("cancelled"):
                outcome = Cancel(seen.decode())
            case _:
                raise StepError.permanent(seen.decode() or "broken")
        mark(step)
        return outcome

    async def begin(self, event: Event, payload: str) -> None:
        match event:
            case Submit(run):
                await self.runtime.submit(RunSpec(b"", run_id=run, max_attempts=ATTEMPTS))
            case Signal(run, name):
                await self.runtime.signal(f"{run}/{name}", payload.encode())
            case CancelRun(run):
                await self.runtime.cancel(run)
            case Advance(seconds):
                await self.clock.advance(seconds)

    async def picture(self) -> Picture:
        runs: dict[str, tuple[object, ...]] = {}
        for run_id in RUN_IDS:
            status = await self.runtime.status(run_id)
            if status is None:
                continue
            due = None
            # A wait without a time-out ends in a century.
            if status.starts_at is not None and status.starts_at < self.start + timedelta(days=1):
                due = (status.starts_at - self.start) // timedelta(seconds=1)
            said = status.reason if status.result is None else status.result.decode()
            ended = said if status.state.ended and said != "cancelled on request" else None
            runs[run_id] = (status.state.value, status.step_number, due, status.signal_keys, ended)
        return runs, await self.buffered_signals()


def plain_picture(plain: PlainRuns) -> Picture:
    runs: dict[str, tuple[object, ...]] = {}
    for run_id, run in plain.runs.items():
        said = run.seen
        if not said and run.program[run.step].does == End("broken"):
            said = "broken"
        ended = said if RunState(run.state).ended and not run.asked_to_cancel else None
        keys = () if run.key is None else (run.key,)
        runs[run_id] = (run.state, run.step, run.due, keys, ended)
    return runs, plain.buffered


def apply(plain: PlainRuns, event: Event, payload: str, programs: dict[str, Program]) -> None:
    match event:
        case Submit(run):
            plain.submit(run, programs[run])
        case Signal(run, name):
            plain.signal(f"{run}/{name}", payload)
        case CancelRun(run):
            plain.cancel(run)
        case Advance(seconds):
            plain.advance(seconds)


@settings(max_examples=settings().max_examples // 2)
@given(
    st.tuples(programs, programs, programs),
    st.lists(st.tuples(events, crashes), max_size=15),
    st.booleans(),
)
def test_runs_do_what_a_plain_interpreter_does(
    drawn: tuple[Program, Program, Program],
    happenings: list[tuple[Event, int | None]],
    replay: bool,
) -> None:
    asyncio.run(compare(dict(zip(RUN_IDS, drawn, strict=True)), happenings, replay=replay))


async def compare(
    programs: dict[str, Program], happenings: list[tuple[Event, int | None]], *, replay: bool
) -> None:
    real, plain = Real(programs, replay=replay), PlainRuns()
    await real.open()
    payloads = (f"<{number}>" for number in itertools.count())
    try:
        for event, crash in happenings:
            payload = next(payloads)
            after = plain.copy()
            apply(after, event, payload, programs)
            # Delays count from when a step settles, so time stands still while the process dies.
            if crash is None or isinstance(event, Advance):
                await real.perform(event, payload)
            else:
                await real.perform_through_a_crash(
                    event, payload, crash, plain_picture(plain), plain_picture(after)
                )
            plain = after
            assert await real.picture() == plain_picture(plain)
            await audit(real.queue)
    finally:
        await real.close()
