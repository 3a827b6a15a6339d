"""Batches in several processes: whichever runs one, all that have made it work on its items.

The handles are those of members, each as another process has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from taquba import InvalidArgument, Queue, Service
from taquba_bulk import BudgetExceeded, Bulk, BulkContext, JsonlSink, PaidCall
from taquba_bulk._holds import Hold, HoldLost
from tests.bulk.support import EAGER, REAL_SECONDS, rows_of, until

Join = Callable[[], Awaitable[Service]]


@pytest.fixture
async def join(short_path: Path) -> AsyncIterator[Join]:
    """Take part in a service, whose owner does nothing else."""
    place, options = short_path / "s", {"fsync": False, "default_config": EAGER}
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(
            await Queue.open(place, inbox=True, producer_socket=True, **options)  # type: ignore[arg-type]
        )

        async def join_one() -> Service:
            service = Service(place, role="worker", **options)  # type: ignore[arg-type]
            return await stack.enter_async_context(service)

        yield join_one


class Site:
    """What pipelines of several processes do, by the process."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def by(self, name: str) -> list[int]:
        return [number for of, number in self.ran if of == name]

    def pipeline(self, name: str) -> Callable[[BulkContext[int]], Awaitable[int]]:
        async def work(ctx: BulkContext[int]) -> int:
            self.ran.append((name, ctx.input))
            await asyncio.sleep(0.001)
            await self.gate.wait()
            return 2 * ctx.input

        return work


@contextlib.asynccontextmanager
async def helping(bulks: Sequence[Bulk[Any, Any]]) -> AsyncGenerator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for bulk in bulks:
            await stack.enter_async_context(bulk)
        yield


async def test_all_members_work_on_the_items_of_a_batch(join: Join, tmp_path: Path) -> None:
    site, out = Site(), tmp_path / "out.jsonl"
    names = ["a", "b", "c"]
    bulks = [
        Bulk(await join(), site.pipeline(name), output=JsonlSink(out), key=str, max_concurrent=5)
        for name in names
    ]
    async with asyncio.timeout(REAL_SECONDS), helping(bulks):
        for start in (0, 400):
            report = await bulks[0].run(range(start, start + 400))
            assert (report.succeeded, report.resumed, report.complete) == (400, 0, True)
            assert all(site.by(name) for name in names)
            assert sorted(number for _, number in site.ran) == list(range(start, start + 400))
            outputs = sorted(row["output"] for row in rows_of(out))
            assert outputs == [2 * number for number in range(start + 400)]
            site.ran.clear()
        assert (await bulks[1].run(range(800))).resumed == 800
    assert site.ran == []


async def test_a_member_that_runs_nothing_itself_helps(join: Join) -> None:
    """The one that runs the batch has few places, and another has many."""
    site = Site()
    site.gate.clear()
    runs = Bulk(await join(), site.pipeline("runs"), max_concurrent=1)
    helps = Bulk(await join(), site.pipeline("helps"), max_concurrent=300)
    async with asyncio.timeout(REAL_SECONDS), helps:
        running = asyncio.create_task(runs.run(range(1000)))
        await until(lambda: len(site.by("helps")) == 300)
        assert len(site.by("runs")) <= 1
        site.gate.set()
        assert (await running).succeeded == 1000


async def test_one_run_of_a_name_at_a_time(join: Join) -> None:
    site = Site()
    site.gate.clear()
    first, second = await join(), await join()
    running = asyncio.create_task(Bulk(first, site.pipeline("first")).run([1]))
    await until(lambda: bool(site.ran))
    with pytest.raises(InvalidArgument, match="'bulk' is already running"):
        await Bulk(second, site.pipeline("second")).run([1])
    assert (await Bulk(second, site.pipeline("o"), queue_name="other").run([])).complete
    site.gate.set()
    await running
    assert (await Bulk(second, site.pipeline("second")).run([1])).resumed == 1


async def test_what_a_run_has_left_is_gone_on_with_anywhere(join: Join) -> None:
    site = Site()
    bulks = [Bulk(await join(), site.pipeline(name), key=str) for name in "ab"]
    async with asyncio.timeout(REAL_SECONDS), bulks[1]:
        site.gate.clear()
        stop = asyncio.Event()
        running = asyncio.create_task(bulks[0].run(range(500), stop))
        await until(lambda: len(site.by("a")) == len(site.by("b")) == 100)
        stop.set()
        await asyncio.sleep(0.1)
        site.gate.set()
        report = await running
        # Of what another process runs it is waited for the end, too.
        assert (report.succeeded, report.complete) == (200, False)
        assert len(site.ran) == 200
    async with asyncio.timeout(REAL_SECONDS), bulks[0]:
        report = await bulks[1].run(range(500))
        assert (report.succeeded, report.resumed, report.complete) == (500, 200, True)
    assert Counter(number for _, number in site.ran) == dict.fromkeys(range(500), 1)


async def test_what_a_run_has_left_is_run_only_if_it_is_an_input_again(join: Join) -> None:
    site = Site()
    bulks = [Bulk(await join(), site.pipeline(name), key=str, max_concurrent=2) for name in "ab"]
    site.gate.clear()
    stop = asyncio.Event()
    running = asyncio.create_task(bulks[0].run(range(50), stop))
    await until(lambda: len(site.ran) == 2)
    stop.set()
    site.gate.set()
    assert (await running).succeeded == 2
    began = {number for _, number in site.ran}
    async with asyncio.timeout(REAL_SECONDS), bulks[1]:
        report = await bulks[0].run([*range(40, 50), *range(100, 300)])
        assert report.succeeded == 210
    assert {number for _, number in site.ran} == {*began, *range(40, 50), *range(100, 300)}


async def test_a_run_that_is_cancelled_has_its_items_given_back_unspent(join: Join) -> None:
    attempts: list[int] = []
    gate = asyncio.Event()

    async def work(ctx: BulkContext[int]) -> None:
        attempts.append(ctx.attempt)
        await gate.wait()

    store = await join()
    bulks: list[Bulk[int, None]] = [
        Bulk(of, work, max_concurrent=3) for of in (store, await join())
    ]
    async with asyncio.timeout(REAL_SECONDS), bulks[1]:
        running = asyncio.create_task(bulks[0].run(range(6)))
        await until(lambda: len(attempts) == 6)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        async with asyncio.timeout(REAL_SECONDS):
            while (await store.stats("bulk")).claimed:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        gate.set()
        assert (await bulks[0].run(range(6))).succeeded == 6
    assert attempts == [1] * 12


async def test_an_item_is_cancelled_from_anywhere(join: Join) -> None:
    begun = asyncio.Event()

    async def waits(ctx: BulkContext[int]) -> None:
        begun.set()
        await ctx.cancel_token.wait()

    runs, helps, asks = [Bulk(await join(), waits, key=str, max_concurrent=1) for _ in range(3)]
    async with asyncio.timeout(REAL_SECONDS), helps:
        running = asyncio.create_task(runs.run(range(5)))
        await begun.wait()
        for number in range(5):
            assert await asks.cancel(str(number))
        report = await running
        assert (report.cancelled, report.complete) == (5, True)


async def test_results_and_errors_are_those_of_one_process(join: Join, tmp_path: Path) -> None:
    async def work(ctx: BulkContext[int]) -> list[int]:
        async def phase() -> int:
            ctx.record_cost("calls", 1)
            return ctx.input

        await ctx.memoized("phase", phase)
        assert dict(ctx.headers) == {"who": "me"}
        if ctx.input % 3 == 0:
            raise ValueError(f"no {ctx.input}")
        return [ctx.input] * 30_000

    rows: list[list[dict[str, Any]]] = []
    for name, helpers in (("alone", 0), ("together", 2)):
        bulks: list[Bulk[int, list[int]]] = [
            Bulk(
                await join(),
                work,
                output=JsonlSink(tmp_path / name),
                key=str,
                headers={"who": "me"},
                max_concurrent=2,
                queue_name=name,
            )
            for _ in range(1 + helpers)
        ]
        async with asyncio.timeout(REAL_SECONDS), helping(bulks[1:]):
            report = await bulks[0].run(range(20))
        assert (report.succeeded, report.failed, report.cost) == (13, 7, {"calls": 20})
        rows.append(rows_of(tmp_path / name))
    assert rows[0] == rows[1]


# -- limits ---------------------------------------------------------------------------------------


def paying(site: Site, name: str, price: float) -> Callable[[BulkContext[int]], Awaitable[None]]:
    async def pay(ctx: BulkContext[int]) -> None:
        async def call(paid: PaidCall) -> None:
            site.ran.append((name, ctx.input))
            # Until the others have come.
            if len({of for of, _ in site.ran}) == 3:
                site.gate.set()
            await site.gate.wait()
            ctx.record_cost("usd", price)

        await ctx.paid_call("c", call, reserve={"usd": 1})

    return pay


@pytest.mark.parametrize(("price", "calls"), [(1, 40), (0.5, 79)])
async def test_a_budget_holds_over_all_members(join: Join, price: float, calls: int) -> None:
    site = Site()
    site.gate.clear()
    bulks: list[Bulk[int, None]] = [
        Bulk(await join(), paying(site, name, price), budget={"usd": 40}, max_concurrent=10)
        for name in "abc"
    ]
    async with asyncio.timeout(REAL_SECONDS), helping(bulks):
        with pytest.raises(BudgetExceeded, match="budget of 40 usd") as caught:
            await bulks[0].run(range(200))
        assert len(site.ran) == calls
        assert caught.value.report.spent == {"usd": calls * price}
        assert caught.value.report.succeeded == calls
        # Whoever runs it next says what may be spent.
        more: Bulk[int, None] = Bulk(
            await join(), paying(site, "d", price), budget={"usd": 300}, max_concurrent=10
        )
        report = await more.run(range(200))
        assert (report.succeeded, report.spent) == (200, {"usd": 200 * price})
    assert len(site.ran) == 200


async def test_a_rate_holds_over_all_members(join: Join) -> None:
    granted: list[tuple[float, str]] = []

    def pipeline(name: str) -> Callable[[BulkContext[int]], Awaitable[None]]:
        async def work(ctx: BulkContext[int]) -> None:
            await ctx.acquire("llm")
            granted.append((time.monotonic(), name))

        return work

    bulks: list[Bulk[int, None]] = [
        Bulk(await join(), pipeline(name), rate={"llm": (20, 0.5)}, max_concurrent=10)
        for name in "abc"
    ]
    async with asyncio.timeout(REAL_SECONDS), helping(bulks[1:]):
        assert (await bulks[0].run(range(100))).succeeded == 100
    times = [at for at, _ in sorted(granted)]
    assert len({name for _, name in granted}) > 1
    # A call begins when its grant is stored, which may take a moment.
    for first, later in zip(times, times[20:], strict=False):
        assert later - first > 0.25
    assert times[-1] - times[0] > 1.5


async def test_what_is_cached_is_made_once_by_all_members(join: Join) -> None:
    made: list[str] = []

    def pipeline(name: str) -> Callable[[BulkContext[int]], Awaitable[str]]:
        async def work(ctx: BulkContext[int]) -> str:
            async def call(paid: PaidCall) -> str:
                made.append(name)
                await asyncio.sleep(0.05)
                return f"for {ctx.input % 5}"

            return await ctx.paid_call(f"{ctx.input % 5}", call, cache="c", reserve={"usd": 1})

        return work

    bulks = [Bulk(await join(), pipeline(name), max_concurrent=10) for name in "abc"]
    async with asyncio.timeout(REAL_SECONDS), helping(bulks):
        report = await bulks[0].run(range(60))
    assert report.succeeded == 60
    assert len(made) == 5


async def test_what_is_being_made_by_a_process_that_dies_is_made_by_another(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taquba_bulk._holds.DEAD_SECONDS", 0.3)
    dies, lives = await join(), await join()
    key = "taquba_bulk_cache/entry/c/" + "0" * 64
    monkeypatch.setattr("taquba_bulk._cache.sha256", _zeros)
    assert await Hold(dies, key).take(None, b"")

    async def work(ctx: BulkContext[int]) -> int:
        async def phase() -> int:
            return 5

        return await ctx.memoized_by_content("v", phase, cache="c")

    async with asyncio.timeout(REAL_SECONDS):
        assert (await Bulk(lives, work).run([1])).succeeded == 1


class _zeros:
    def __init__(self, content: bytes) -> None: ...

    def hexdigest(self) -> str:
        return "0" * 64


async def test_a_run_whose_process_does_not_answer_is_taken_over(
    join: Join, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("taquba_bulk._holds.DEAD_SECONDS", 0.3)
    monkeypatch.setattr("taquba_bulk._holds.BEAT_SECONDS", 0.05)
    site, out = Site(), tmp_path / "out.jsonl"
    hangs, lives = [
        Bulk(await join(), site.pipeline(name), output=JsonlSink(out), key=str) for name in "ab"
    ]
    site.gate.clear()
    falls_asleep, wakes = asyncio.Event(), asyncio.Event()
    renew = Hold.renew

    async def sleeps(hold: Hold, content: bytes | None = None) -> None:
        falls_asleep.set()
        await wakes.wait()
        await renew(hold, content)

    monkeypatch.setattr(Hold, "renew", sleeps)
    late = asyncio.create_task(hangs.run(range(3)))
    await until(lambda: len(site.ran) == 3)
    await falls_asleep.wait()
    monkeypatch.setattr(Hold, "renew", renew)
    async with asyncio.timeout(REAL_SECONDS):
        going_on = asyncio.create_task(lives.run(range(3)))
        await asyncio.sleep(0.5)
        wakes.set()
        site.gate.set()
        with pytest.raises(HoldLost, match="another process has taken over"):
            await late
        assert (await going_on).succeeded == 3
    assert len(rows_of(out)) == 3


def test_a_batch_may_be_made_before_anything_runs(short_path: Path) -> None:
    """As in a module that a web server loads before it forks."""
    program = f"""
import asyncio, os
from taquba import Service
from taquba_bulk import Bulk, BulkContext
from taquba_bulk._holds import handle_id


async def double(ctx: BulkContext[int]) -> int:
    return 2 * ctx.input

service = Service({str(short_path / "s")!r})
bulk = Bulk(service, double)
before = handle_id(service)
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0


async def main():
    async with service, bulk:
        return await bulk.run(range(5))

assert (handle_id(service) == before) == bool(child)
assert asyncio.run(main()).succeeded == 5
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=REAL_SECONDS)


async def test_a_batch_is_entered_once(join: Join) -> None:
    bulk = Bulk(await join(), Site().pipeline("a"))
    async with bulk:
        with pytest.raises(InvalidArgument, match="already running"):
            async with bulk:
                pass
