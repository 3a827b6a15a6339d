"""Checks that packages share, and what their errors say."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from taquba import Duration, InvalidArgument, InvalidArgumentType, Queue
from taquba.extending.checks import at_least_one, duration_ms, instance


def test_a_number_of_one_or_more_is_given_back() -> None:
    assert at_least_one(1, "attempts") == 1
    assert at_least_one(10**9, "attempts") == 10**9


@pytest.mark.parametrize("value", [0, -1])
def test_a_number_below_one_is_refused(value: int) -> None:
    with pytest.raises(InvalidArgument, match=rf"^attempts must be at least 1; got {value}$"):
        at_least_one(value, "attempts")


@pytest.mark.parametrize("value", [1.0, "1", True, None])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=rf"^attempts must be an int, not {value!r}$"):
        at_least_one(value, "attempts")


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (0, 0),
        (4.03, 4030),
        (timedelta(minutes=1), 60_000),
        # Rounded up: what is more than nothing stays so.
        (1e-9, 1),
        (timedelta(microseconds=1001), 2),
    ],
)
def test_a_duration_is_told_in_milliseconds(value: Duration, ms: int) -> None:
    assert duration_ms(value, "timeout") == ms


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, timedelta(days=100 * 366)])
def test_a_duration_that_cannot_be_meant_is_refused(value: Duration) -> None:
    with pytest.raises(InvalidArgument, match=r"^timeout must be between 0 and a hundred years"):
        duration_ms(value, "timeout")


def test_a_duration_can_have_a_least_one() -> None:
    assert duration_ms(0.001, "timeout", minimum=1) == 1
    with pytest.raises(InvalidArgument, match=r"^timeout must be at least 0\.001 s; got 0$"):
        duration_ms(0, "timeout", minimum=1)


@pytest.mark.parametrize("value", ["1s", True, None])
def test_what_is_no_duration_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=r"^timeout must be seconds .* or a timedelta"):
        duration_ms(value, "timeout")


def test_an_object_of_another_class_is_refused(queue: Queue) -> None:
    instance(queue, Queue, "queue")
    with pytest.raises(InvalidArgumentType, match=r"^queue must be a Queue, not str$"):
        instance("./data", Queue, "queue")
