"""Functions whose process ends at every single commit."""

from __future__ import annotations

from collections import Counter
from itertools import count

from taquba import Queue, TaqubaError
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    ChildFailed,
    RunState,
    StepError,
    StepFailed,
    WorkflowContext,
    WorkflowRuntime,
    current_step,
    step,
    workflow,
)
from tests.workflow.crashing import after_writes, die_at
from tests.workflow.functions.audit import audit, check_grown, read_histories, states
from tests.workflow.functions.support import options
from tests.workflow.support import EAGER, entries, finish, fresh_url, status_of

numbers = count()
ran: Counter[str] = Counter()


@step(max_attempts=2, backoff=5)
async def effect(name: str) -> str:
    """Another result each time, so that a recorded one cannot be taken for a new one."""
    ran[name] += 1
    if name.startswith("flaky") and current_step().attempt == 1:
        raise ValueError("try again")
    if name == "fatal":
        raise StepError.permanent("no")
    return f"{name} {next(numbers)}"


@workflow(name="child")
async def child(ctx: WorkflowContext, how: str) -> str:
    await ctx.sleep(3)
    return await ctx.step(effect, "fatal" if how == "fails" else f"child {how}")


@workflow(name="kinds")
async def kinds(ctx: WorkflowContext) -> list[str]:
    """Every kind of call."""

    async def branch(name: str) -> str:
        before = await ctx.step(effect, f"{name} before")
        if name == "left":
            await ctx.sleep(4)
        else:
            assert await ctx.wait_signal("right") == b"right"
        return before + await ctx.step(effect, f"{name} after")

    ctx.on_failure(effect, "not undone")
    seen = [await ctx.step(effect, "first"), await ctx.step(effect, "flaky")]
    assert await ctx.wait_signal("early", timeout=3600) == b"early"
    seen += await ctx.gather(branch("left"), branch("right"), ctx.child(child, "works"))
    assert await ctx.wait_signal("never", timeout=2) is None
    try:
        await ctx.child(child, "fails")
    except ChildFailed as error:
        seen.append(error.reason)
    if ctx.patched("more"):
        seen.append(await ctx.step(effect, "more"))
    return seen


@workflow(name="fails")
async def fails(ctx: WorkflowContext) -> None:
    for name in ("one", "flaky two"):
        await ctx.step(effect, name)
        ctx.on_failure(effect, f"undo {name}")
    try:
        await ctx.step(effect, "fatal")
    except StepFailed as error:
        raise LookupError("gives up") from error


@workflow(name="cancels")
async def cancels(ctx: WorkflowContext) -> None:
    await ctx.step(effect, "begun")
    ctx.on_failure(effect, "flaky undo begun")
    try:
        await ctx.gather(ctx.wait_signal("cancelled"), ctx.child(cancels_too))
    finally:
        # Nothing of this is done: the replay that compensates would not do it again.
        await ctx.step(effect, "clean-up")


@workflow(name="cancels_too")
async def cancels_too(ctx: WorkflowContext) -> None:
    ctx.on_failure(effect, "undo child")
    await ctx.wait_signal("never comes")


FUNCTIONS = {"kinds": kinds, "fails": fails, "cancels": cancels}


async def drive(queue: Queue, clock: MockClock) -> None:
    """Whatever was done already, do the rest."""
    runtime = WorkflowRuntime(queue, workflows=[*FUNCTIONS.values(), child, cancels_too])
    # An external caller that repeats what it got no answer for.
    if await runtime.status("kinds") is None:
        await runtime.signal("early", b"early")
    async with runtime:
        for run_id, function in FUNCTIONS.items():
            await runtime.start_with(options(run_id), function)
        await clock.advance(5)
        if "right" in (await status_of(runtime, "kinds")).signal_keys:
            await runtime.signal("right", b"right")
        await runtime.cancel("cancels")
        await clock.advance(60)
        succeeded, failed, cancelled = await finish(runtime, *FUNCTIONS)
        assert succeeded.state is RunState.SUCCEEDED, succeeded
        assert (failed.state, failed.reason) == (RunState.FAILED, "LookupError: gives up")
        assert (cancelled.state, cancelled.reason) == (RunState.CANCELLED, "cancelled on request")
        names = [record.name for record in await runtime.history("fails")]
        assert names == ["effect"] * 5
        await clock.advance(0)


async def test_from_every_prefix_of_its_commits_a_function_goes_on_to_the_same_end(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    prefixes = 0
    lives: list[Counter[str]] = []
    while True:
        url = fresh_url()
        ran.clear()
        old = await open_queue(url, default_config=EAGER)
        dying = die_at(old, after_writes(prefixes))
        try:
            await drive(old, mock_clock)
        except TaqubaError:
            assert dying.died.is_set()
        queue = await open_queue(url, default_config=EAGER, take_over=True)
        # The first to look: nothing has run since the end of the process.
        await audit(queue)
        before = await read_histories(queue)
        await drive(queue, mock_clock)
        ends = states(await audit(queue))
        check_grown(before, await read_histories(queue))
        assert sorted(state for state in ends.values() if state is not None) == sorted(
            [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED] * 2
        )
        assert await entries(queue, "workflow/signal/") == {}
        lives.append(ran.copy())
        await queue.close()
        await old.close()
        if not dying.died.is_set():
            break
        prefixes += 1
    assert prefixes > 40
    undisturbed = lives.pop()
    assert undisturbed["undo one"] == undisturbed["undo child"] == 1
    assert undisturbed["clean-up"] == undisturbed["not undone"] == 0
    for life in lives:
        # Once, or again where the process died before the result was recorded.
        again = life - undisturbed
        assert life.keys() == undisturbed.keys()
        assert set(again.values()) <= {1}, again
