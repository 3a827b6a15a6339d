"""What a batch takes, remembers and returns comes back as it was, or fails the item by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from pydantic import BaseModel, SecretStr, computed_field

from taquba import InvalidArgument, Queue
from taquba.testing import OpenQueue
from taquba_bulk import Bulk, BulkContext, JsonlSink, PaidCall
from taquba_bulk._phases import by_content
from tests.bulk.support import EAGER, rows_of
from tests.extending.kinds import KINDS, Animal, Dog, alike, private

NOT_IN_JSON = ("zone itself", "pure path")


async def outputs(bulk: Bulk[Any, Any], inputs: Iterable[Any]) -> list[Any]:
    """Outputs, or errors, in the order of the inputs."""
    records = [record async for record in bulk.stream(inputs)]
    return [
        record.output if record.error is None else record.error
        for record in sorted(records, key=lambda record: record.index)
    ]


async def test_inputs(queue: Queue) -> None:
    seen: list[Any] = []
    for number, kind in enumerate(KINDS):

        async def take(ctx: BulkContext[Any]) -> None:
            seen.append(ctx.input)

        take.__annotations__["ctx"] = BulkContext[kind.annotation]  # type: ignore[name-defined]
        bulk = Bulk(queue, take, queue_name=f"inputs-{number}")
        if kind.kept:
            assert (await bulk.run([kind.value()])).succeeded == 1, kind
            assert alike(kind.value(), seen.pop()), kind
        else:
            with pytest.raises(InvalidArgument, match=r"input 0 .* the input cannot be stored"):
                await bulk.run([kind.value()])
        assert seen == []


async def test_outputs(queue: Queue) -> None:
    for number, kind in enumerate(KINDS):

        async def give(ctx: BulkContext[int]) -> Any:
            return kind.value()  # noqa: B023

        give.__annotations__["return"] = kind.annotation
        (came,) = await outputs(Bulk(queue, give, queue_name=f"outputs-{number}"), [1])
        if kind.name in NOT_IN_JSON:
            assert "the output cannot be written as JSON" in came, kind
        elif kind.kept:
            assert alike(kind.value(), came), kind
        else:
            assert "the output cannot be stored" in came, kind


async def test_what_phases_and_paid_calls_come_to(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=EAGER)
    paid: list[str] = []

    async def pipeline(ctx: BulkContext[int]) -> list[str]:
        async def phase() -> Any:
            return kind.value()

        async def call(made: PaidCall) -> Any:
            paid.append(kind.name)
            return kind.value()

        kind = KINDS[ctx.input]
        problems: list[str] = []
        attempts = (
            ctx.memoized("phase", phase, type=kind.annotation),
            ctx.paid_call("call", call, reserve={"usd": 1}, type=kind.annotation),
        )
        for attempt in attempts:
            try:
                came = await attempt
            except InvalidArgument as error:
                problems.append(str(error))
            else:
                assert alike(kind.value(), came), kind
        if ctx.attempt == 1:
            raise ConnectionError
        return problems

    bulk = Bulk(queue, pipeline, budget={"usd": 1000})
    for kind, problems in zip(KINDS, await outputs(bulk, range(len(KINDS))), strict=True):
        assert isinstance(problems, list), problems
        if kind.kept:
            assert problems == [], kind
        else:
            assert "the value cannot be stored" in problems[0], kind
            assert "was made, and is not made again" in problems[1], kind
            assert "hunter2" not in "".join(problems)
    assert sorted(paid) == sorted(kind.name for kind in KINDS)


class Point(BaseModel):
    x: int

    @computed_field
    def square(self) -> int:
        return self.x**2


async def test_rows_of_an_output_show_what_is_computed_now_and_later(
    queue: Queue, tmp_path: Path
) -> None:
    async def pipeline(ctx: BulkContext[int]) -> Point:
        return Point(x=ctx.input)

    for name in ("first.jsonl", "again.jsonl"):
        path = tmp_path / name
        await Bulk(queue, pipeline, output=JsonlSink(path)).run([3])
        assert [row["output"] for row in rows_of(path)] == [{"x": 3, "square": 9}]


async def test_the_answer_of_a_paid_call_that_does_not_fit_is_told_and_paid_once(
    queue: Queue,
) -> None:
    paid: list[int] = []

    async def pipeline(ctx: BulkContext[int]) -> None:
        async def call(made: PaidCall) -> Animal:
            paid.append(ctx.input)
            ctx.record_cost("usd", 0.25)
            return Dog(name="Rex", tricks=4)

        await ctx.paid_call("dog", call, type=Animal)

    for _ in range(2):
        bulk = Bulk(queue, pipeline)
        (came,) = await outputs(bulk, [1])
        assert "a Dog comes back as a Animal" in came
        assert "its answer as plain data: {'name': 'Rex', 'tricks': 4}" in came
        assert bulk.progress().cost == {"usd": 0.25}
    assert paid == [1]


async def test_a_cached_value_that_cannot_be_read_is_made_anew(queue: Queue) -> None:
    made: list[str] = []

    def pipeline_of(kind: Any, value: Any) -> Any:
        async def pipeline(ctx: BulkContext[int]) -> None:
            async def make() -> Any:
                made.append(str(value))
                return value

            assert await ctx.memoized_by_content(1, make, type=kind, cache="c") == value

        return pipeline

    async def run(name: str, kind: Any, value: Any) -> None:
        assert (await Bulk(queue, pipeline_of(kind, value), queue_name=name).run([1])).succeeded

    await run("a", str, "text")
    await run("b", str, "text")
    assert made == ["text"]
    await run("c", int, 5)
    await run("d", int, 5)
    assert made == ["text", "5"]
    for damaged in (b"", b"\xc1", msgpack.packb(["x"]), msgpack.packb([None, b"\xc1"])):
        (entry,) = (await queue.kv_scan("taquba_bulk_cache/entry/")).entries
        await queue.kv_put(entry.key, damaged)
        made.clear()
        await run(f"e{damaged!r}", int, 5)
        assert made == ["5"]


def test_a_phase_is_remembered_by_all_that_its_value_holds() -> None:
    different: list[Any] = [
        *(1, 1.0, True, "1", None, float("nan"), float("inf"), -0.0, 0.0, b"a", "YQ=="),
        *((1, 2), {1: 2}, {"1": 2}, {1, 2}),
        *(SecretStr("a"), SecretStr("b"), private("a"), private("b")),
        *(Dog(name="a", tricks=1), Animal(name="a")),
        *(Path("a"), "a"),
    ]
    assert len({by_content(value) for value in different}) == len(different)
    assert by_content({"a": {3, 1, 2}, "b": 1}) == by_content({"b": 1, "a": {2, 3, 1}})
    for opaque in (iter([1]), [lambda: 1]):
        with pytest.raises(
            TypeError, match="a phase can be remembered only by a value that is plain data"
        ):
            by_content(opaque)
