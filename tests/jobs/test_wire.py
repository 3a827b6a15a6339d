"""Arguments and results: what goes through the store comes back as it was."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from taquba import InvalidArgument, InvalidArgumentType, Queue
from taquba.extending.typed import pack, unpack
from taquba_jobs import (
    FailureKind,
    JobContext,
    JobFailed,
    JobRunner,
    job,
    payload_idempotency_key,
)


class Colour(Enum):
    RED = "r"


class Level(StrEnum):
    HIGH = "high"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Box:
    content: bytes
    at: datetime
    corners: tuple[Point, ...]


class Order(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: UUID
    price: Decimal
    tags: frozenset[str] = frozenset()
    inner: Order | None = None


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    numbers: tuple[int, ...]


BERLIN = timezone(timedelta(hours=2))


@job(name="echo.box")
async def echo_box(ctx: JobContext, value: Box) -> Box:
    return value


@job(name="echo.order")
async def echo_order(ctx: JobContext, value: Order) -> Order:
    return value


@job(name="echo.strict")
async def echo_strict(ctx: JobContext, value: Strict) -> Strict:
    return value


@job(name="echo.plain")
async def echo_plain(
    ctx: JobContext,
    data: bytes,
    when: datetime,
    day: date,
    span: timedelta,
    path: Path,
    colour: Colour,
    level: Level,
    table: dict[tuple[int, str], set[int]],
    big: int,
    anything: Any,
) -> tuple[
    bytes,
    datetime,
    date,
    timedelta,
    Path,
    Colour,
    Level,
    dict[tuple[int, str], set[int]],
    int,
    Any,
]:
    return (data, when, day, span, path, colour, level, table, big, anything)


@job(name="echo.rest")
async def echo_rest(
    ctx: JobContext, first: int, /, second: int = 2, *rest: int, last: int = 9, **more: str
) -> list[Any]:
    return [first, second, list(rest), last, more]


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (echo_box, Box(b"\x00\xff", datetime(2030, 1, 2, 3, tzinfo=BERLIN), (Point(1, 2),))),
        (
            echo_order,
            Order(
                id=UUID(int=5),
                price=Decimal("1.10"),
                tags=frozenset("ab"),
                inner=Order(id=UUID(int=6), price=Decimal(0)),
            ),
        ),
        (echo_strict, Strict(at=datetime(2030, 1, 2, tzinfo=UTC), numbers=(1, 2))),
    ],
)
async def test_values_of_users_types_come_back_equal(
    queue: Queue, function: Any, value: object
) -> None:
    async with JobRunner(queue, jobs=[function]) as runner:
        result = await (await runner.submit(function, value))
    assert result == value
    assert type(result) is type(value)


async def test_standard_types_reach_the_function(queue: Queue) -> None:
    seen: list[tuple[Any, ...]] = []

    async def note(ctx: JobContext[None], call_next: Any) -> object:
        seen.append(await call_next(ctx))
        return seen[-1]

    arguments: dict[str, Any] = {
        "data": bytes(range(256)),
        "when": datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=BERLIN),
        "day": date(2030, 1, 2),
        "span": timedelta(days=-1, microseconds=1),
        "path": Path("/some/where"),
        "colour": Colour.RED,
        "level": Level.HIGH,
        "table": {(1, "a"): {3, 4}},
        "big": 2**64 - 1,
        "anything": [1, (2, 3), {"a": None, 5: 1.5}],
    }
    async with JobRunner(queue, jobs=[echo_plain], middleware=[note]) as runner:
        await (await runner.submit(echo_plain, **arguments))
    assert seen == [tuple(arguments.values())]
    assert seen[0][1].utcoffset() == timedelta(hours=2)


async def test_every_kind_of_parameter(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[echo_rest]) as runner:
        assert await (await runner.submit(echo_rest, 1)) == [1, 2, [], 9, {}]
        full = await runner.submit(echo_rest, 1, 3, 4, 5, last=6, x="7")
        assert await full == [1, 3, [4, 5], 6, {"x": "7"}]


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "says"),
    [
        ((), {}, InvalidArgumentType, "missing a required argument: 'number'"),
        ((1, 2, 3), {}, InvalidArgumentType, "too many positional arguments"),
        ((1,), {"nope": 1}, InvalidArgumentType, "unexpected keyword argument 'nope'"),
        (("x",), {}, InvalidArgument, "number: Input should be a valid integer.*got 'x'"),
        ((5,), {"kind": "c"}, InvalidArgument, "kind: Input should be 'a' or 'b', got 'c'"),
        ((500,), {}, InvalidArgument, "number: Input should be less than 100, got 500"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(
    queue: Queue, args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], says: str
) -> None:
    runner = JobRunner(queue, jobs=[picky])
    with pytest.raises(error, match=says) as refused:
        await runner.submit(picky, *args, **kwargs)
    assert "job 'picky'" in str(refused.value)
    assert (await queue.stats("jobs")).pending == 0


@job(name="picky")
async def picky(
    ctx: JobContext, number: Annotated[int, Field(lt=100)], kind: Literal["a", "b"] = "a"
) -> None: ...


async def test_a_value_of_an_unknown_kind_is_refused(queue: Queue) -> None:
    runner = JobRunner(queue, jobs=[liar])
    with pytest.raises(InvalidArgument, match="an argument of job 'liar' cannot be stored"):
        await runner.submit(liar, Opaque())


@job(name="secret")
async def keep_secret(ctx: JobContext, secret: SecretStr, number: int) -> str:
    return secret.get_secret_value()


async def test_a_secret_is_neither_stored_nor_told(queue: Queue) -> None:
    runner = JobRunner(queue, jobs=[keep_secret])
    with pytest.raises(InvalidArgument, match="secret: a SecretStr comes back as") as refused:
        await runner.submit(keep_secret, SecretStr("hunter2"), 1)
    assert "hunter2" not in str(refused.value)
    assert (await queue.stats("jobs")).pending == 0


@job(name="liar")
async def liar(ctx: JobContext, value: Any) -> int:
    return value  # type: ignore[no-any-return]


async def test_a_result_of_another_type_fails_the_job_at_once(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[liar]) as runner:
        handle = await runner.submit(liar, "text")
        with pytest.raises(JobFailed, match="the result does not fit its annotation") as failed:
            await handle
        assert failed.value.kind is FailureKind.INVALID
        assert (await queue.attempt_history(handle.id))[-1].attempt == 1


class Opaque:
    pass


async def test_an_annotation_that_cannot_be_stored_is_refused_by_the_runner(queue: Queue) -> None:
    @job(name="opaque")
    async def opaque(ctx: JobContext, value: Opaque) -> None: ...

    with pytest.raises(InvalidArgument, match="job 'opaque' has an annotation that pydantic"):
        JobRunner(queue, jobs=[opaque])


async def test_an_annotation_that_nobody_defined_is_named(queue: Queue) -> None:
    @job(name="unknown")
    async def unknown(ctx: JobContext, value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidArgument, match="'Nowhere' is not defined"):
        JobRunner(queue, jobs=[unknown])


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(0, 5) | st.tuples(st.integers(0, 5)), inner)
    ),
    max_leaves=8,
)


@given(plain_values)
def test_plain_data_round_trips_with_its_types(value: object) -> None:
    assert repr(unpack(pack(value))) == repr(value)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        unpack(data)


KEY = """
from taquba_jobs import payload_idempotency_key
value = {"b": {"x", "y", "z"}, "a": [1, {"d": 1, "c": 2}]}
print(payload_idempotency_key(value, n=frozenset("abc")))
"""


def test_a_payload_key_is_the_same_in_every_process_and_order() -> None:
    keys = {
        subprocess.run(
            [sys.executable, "-c", KEY],
            env={"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = payload_idempotency_key(
        {"a": [1, {"c": 2, "d": 1}], "b": {"z", "y", "x"}}, n=frozenset("cba")
    )
    assert keys == {here.encode() + b"\n"}
    assert here != payload_idempotency_key({"a": [1, {"c": 2, "d": 2}], "b": {"z", "y", "x"}})
