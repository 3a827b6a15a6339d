"""A value that is stored comes back with its types and content, or is refused: never another."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from taquba import InvalidArgument
from taquba.extending.typed import Codec, Signature, Undecodable, unpack
from tests.extending.kinds import BERLIN, KINDS, Animal, Dog, Kind, alike


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_packed_is_what_is_read(kind: Kind) -> None:
    codec = Codec[Any](kind.annotation, "the value", "it")
    if kind.kept:
        assert alike(kind.value(), codec.load(codec.dump(kind.value())))
        assert codec.dump(kind.value()) == codec.dump(kind.value())
    else:
        with pytest.raises(Undecodable, match="the value cannot be stored") as refused:
            codec.dump(kind.value())
        assert "hunter2" not in str(refused.value)


def test_what_the_checks_of_a_value_cost_is_known_by_its_annotation() -> None:
    class Plain(BaseModel):
        number: int

    natures = {
        "plain": [int, str | None, dict[str, list[float]], tuple[datetime, timedelta], None],
        "any": [Any, object, dict[str, Any], list],
        "compared": [Plain, list[Plain], int | list[int], Annotated[int, Field(gt=1)] | int],
    }
    for expected, kinds in natures.items():
        for annotation in kinds:
            codec = Codec[Any](annotation, "it", "it")
            assert codec.nature.name == expected.upper(), annotation


plain_keys = st.text() | st.integers() | st.booleans() | st.tuples(st.integers(), st.text())
times = st.datetimes(timezones=st.sampled_from([BERLIN, None]), allow_imaginary=True)
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.times()
    | times
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.fractions(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(plain_keys, inner)
        | st.sets(plain_keys)
    ),
    max_leaves=8,
)


@given(plain_values)
def test_any_value_comes_back_or_is_refused(value: Any) -> None:
    codec = Codec[Any](Any, "the value", "it")
    try:
        packed = codec.dump(value)
    except Undecodable:
        assert "Fraction" in repr(value)
    else:
        assert alike(value, codec.load(packed))


async def owner(pet: Animal, *others: Animal, **named: Animal) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "where"),
    [
        ([Dog(name="a", tricks=1)], {}, "pet: a Dog comes back as a Animal"),
        ([Animal(name="a"), Dog(name="a", tricks=1)], {}, r"others\[0\]: a Dog"),
        ([Animal(name="a")], {"last": Dog(name="a", tricks=1)}, r"named\['last'\]: a Dog"),
    ],
)
def test_an_argument_that_is_refused_is_named(
    args: list[Any], kwargs: dict[str, Any], where: str
) -> None:
    signature = Signature("job 'own'", owner)
    values = signature.bind(tuple(args), kwargs)
    with pytest.raises(
        InvalidArgument, match=f"an argument of job 'own' cannot be stored: {where}"
    ):
        signature.pack(values)


def test_what_can_be_read_once_is_read_by_everybody_who_needs_it() -> None:
    async def total(numbers: Iterable[int], more: dict[str, Iterable[int]]) -> Iterable[int]: ...

    signature = Signature("step 'total'", total)
    values = signature.bind((iter([1, 2]), {"a": (number for number in [3])}), {})
    packed = signature.pack(values)
    assert signature.fingerprint(values) == signature.fingerprint(values)
    for _ in range(2):
        numbers, more = signature.call(values).args
        assert (list(numbers), list(more["a"])) == ([1, 2], [3])
    assert signature.pack(values) == packed
    result = signature.pack_result(number for number in [1, 2])
    assert list(signature.unpack_result(result)) == [1, 2]


class Stream(BaseModel):
    numbers: Iterable[int]


def generated(numbers: Generator[int, None, None]) -> None: ...
def streamed(stream: Stream) -> None: ...
def returned() -> Generator[int, None, None]: ...


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (generated, "a generator"),
        (streamed, "an Iterable in Stream"),
        (returned, "a generator"),
    ],
)
def test_what_can_be_read_only_once_is_refused_by_its_annotation(function: Any, why: str) -> None:
    with pytest.raises(
        InvalidArgument, match=f"'it' has .* read only once, {why}: annotate a list"
    ):
        Signature("step 'it'", function).resolve()


def test_an_alias_of_a_parameter_is_not_its_name() -> None:
    async def function(number: Annotated[int, Field(alias="other")]) -> None: ...

    signature = Signature("job 'alias'", function)
    assert signature.bind((3,), {}) == {"number": 3}


def nested(kind: type, levels: int) -> Any:
    value: Any = kind()
    for _ in range(levels):
        value = kind([value])
    return value


@pytest.mark.parametrize("kind", [list, tuple, frozenset])
def test_what_is_nested_too_deep_is_refused_at_once(kind: type) -> None:
    codec = Codec[Any](Any, "the value", "it")
    assert codec.load(codec.dump(nested(kind, 30))) == nested(kind, 30)
    with pytest.raises(Undecodable, match="the value cannot be stored"):
        codec.dump(nested(kind, 1_100 if kind is list else 33))


@pytest.mark.parametrize("code", [1, 2, 3, 5, 7, 8])
def test_bytes_that_are_nested_too_deep_do_not_exhaust_the_stack(code: int) -> None:
    data = b"\x90"
    for _ in range(2_000):
        data = msgpack.packb([msgpack.ExtType(code, data)])
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        unpack(data)


def test_arguments_are_told_apart_that_are_written_out_for_json_only() -> None:
    def function(zone: ZoneInfo) -> None: ...

    signature = Signature("step 'zone'", function)
    marks = [
        signature.fingerprint(signature.bind((ZoneInfo(name),), {}))
        for name in ("Asia/Tokyo", "Europe/Berlin", "Asia/Tokyo")
    ]
    assert marks[0] == marks[2] != marks[1]
