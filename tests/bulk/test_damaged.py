"""Damaged records of a batch: each is a miss, and the batch goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgpack
import pytest

from taquba import InvalidArgument, Queue, StoreError
from taquba.testing import MockClock, OpenQueue
from taquba_bulk import Bulk, BulkContext, JsonlSink, NullSink, PaidCall
from taquba_workflow import EffectsSealed
from tests.bulk.support import EAGER, rows_of
from tests.workflow.support import entries

DAMAGED = [b"", b"\xc1", msgpack.packb(7), msgpack.packb([1]), msgpack.packb([{}, b"\xc1"])]
ITEMS = [*DAMAGED, msgpack.packb(["succeeded", {}, 0, 2**63])]


async def damage(queue: Queue, part: str, row: bytes) -> int:
    """Put a row in place of all that have this in their keys, behind the sign of a memo."""
    keys = [key for key in await entries(queue) if part in key]
    for key in keys:
        # Also one that lacks the sign of what kind of memo it is.
        sign = b"" if row == b"\xc1" else b"\0"
        await queue.kv_put(key, sign + row if "/memo/" in key else row)
    return len(keys)


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
@pytest.mark.parametrize("how", ["memoized", "cached", "paid"])
async def test_what_is_remembered_and_cannot_be_read_is_done_again(
    open_queue: OpenQueue, how: str, row: bytes
) -> None:
    queue = await open_queue(default_config=EAGER)
    calls: list[str] = []

    async def phase() -> int:
        calls.append("phase")
        return len(calls)

    async def call(paid: PaidCall) -> int:
        return await phase()

    async def pipeline(ctx: BulkContext[int]) -> int:
        if how == "memoized":
            found = await ctx.memoized("m", phase)
        elif how == "cached":
            found = await ctx.memoized_by_content("c", phase, cache="c", ttl=3600)
        else:
            found = await ctx.paid_call("p", call)
        if ctx.attempt == 1:
            assert await damage(queue, "/memo/", row) == 1
            if how == "cached":
                assert await damage(queue, "taquba_bulk_cache/entry", row) == 1
            raise ConnectionError
        return found

    report = await Bulk(queue, pipeline, output=NullSink()).run([1])
    assert report.succeeded == 1
    assert calls == ["phase", "phase"]


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_a_paid_call_whose_record_cannot_be_read_is_unknown(
    open_queue: OpenQueue, row: bytes
) -> None:
    queue = await open_queue(default_config=EAGER)
    calls: list[int] = []

    async def call(paid: PaidCall) -> int:
        calls.append(paid.begun)
        return 1

    async def pipeline(ctx: BulkContext[int]) -> int | None:
        found = await ctx.paid_call("p", call, on_unknown="skip")
        if ctx.attempt == 1:
            await damage(queue, "/memo/", row)
            raise ConnectionError
        return found

    report = await Bulk(queue, pipeline, output=NullSink()).run([1])
    assert report.succeeded == 1
    assert calls == [1]


@pytest.mark.parametrize("row", ITEMS, ids=repr)
async def test_an_item_whose_row_cannot_be_read_is_not_run_again(queue: Queue, row: bytes) -> None:
    ran: list[int] = []

    async def pipeline(ctx: BulkContext[int]) -> int:
        ran.append(ctx.input)
        return ctx.input

    assert (await Bulk(queue, pipeline, output=NullSink()).run([1, 2])).succeeded == 2
    assert await damage(queue, "taquba_bulk/bulk/item/", row) == 2
    report = await Bulk(queue, pipeline, output=NullSink()).run([1, 2, 3])
    assert report.succeeded == 3
    assert sorted(ran) == [1, 2, 3]


async def test_what_a_budget_has_spent_is_not_forgotten_because_it_cannot_be_read(
    queue: Queue,
) -> None:
    async def pipeline(ctx: BulkContext[int]) -> int:
        return ctx.input

    bulk: Bulk[Any, Any] = Bulk(queue, pipeline, budget={"usd": 1})
    await queue.kv_put("taquba_bulk/bulk/budget", b"\xc1")
    with pytest.raises(StoreError, match=r"delete the entry 'taquba_bulk/bulk/budget'"):
        await bulk.run([1])
    await queue.kv_delete("taquba_bulk/bulk/budget")
    assert (await bulk.run([1])).succeeded == 1


@pytest.mark.parametrize("name", ["odd", "1/2", "x/c/d", "00000000000001/c/d"])
async def test_an_expiry_that_cannot_be_read_does_not_stop_the_batch_or_the_sweep(
    queue: Queue, mock_clock: MockClock, name: str
) -> None:
    async def phase() -> int:
        return 1

    async def pipeline(ctx: BulkContext[int]) -> int:
        return await ctx.memoized_by_content("c", phase, cache="c", ttl=60)

    bulk: Bulk[Any, Any] = Bulk(queue, pipeline)
    await queue.kv_put(f"taquba_bulk_cache/expiry/{name}", b"\xff")
    await queue.kv_put("taquba_bulk_cache/entry/c/d", b"\xc1")
    assert (await bulk.run([1])).succeeded == 1
    await mock_clock.advance(61)
    assert (await bulk.run([1])).succeeded == 1
    left = await entries(queue, "taquba_bulk_cache/")
    assert set(left) == {f"taquba_bulk_cache/expiry/{name}", "taquba_bulk_cache/entry/c/d"}


async def test_what_is_recorded_for_an_attempt_that_has_ended_is_refused(queue: Queue) -> None:
    late: list[BulkContext[int]] = []

    async def phase() -> int:
        return 1

    async def call(paid: PaidCall) -> int:
        return 1

    async def pipeline(ctx: BulkContext[int]) -> int:
        late.append(ctx)
        return ctx.input

    assert (await Bulk(queue, pipeline).run([1])).succeeded == 1
    with pytest.raises(EffectsSealed, match="attempt 1 at item"):
        late[0].record_cost("usd", 1)
    with pytest.raises(EffectsSealed, match="attempt 1 at item"):
        await late[0].memoized("m", phase)
    with pytest.raises(EffectsSealed, match="the paid call 'p'"):
        await late[0].paid_call("p", call)
    await asyncio.sleep(0)


@pytest.mark.parametrize("row", [*DAMAGED, msgpack.packb(["s", "s", 7]), msgpack.packb([1, 2, []])])
async def test_an_output_whose_position_cannot_be_read_is_written_anew(
    queue: Queue, tmp_path: Path, row: bytes
) -> None:
    async def pipeline(ctx: BulkContext[int]) -> int:
        return ctx.input

    path = tmp_path / "out.jsonl"
    await Bulk(queue, pipeline, output=JsonlSink(path)).run([1, 2])
    assert await damage(queue, "taquba_bulk/bulk/output", row) == 1
    with pytest.raises(InvalidArgument, match="remove it"):
        await Bulk(queue, pipeline, output=JsonlSink(path)).run([1, 2])
    path.unlink()
    assert (await Bulk(queue, pipeline, output=JsonlSink(path)).run([1, 2])).complete
    assert [row["output"] for row in rows_of(path)] == [1, 2]
