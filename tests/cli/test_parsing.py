from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from taquba import PRIORITY_HIGH
from taquba._cli import parsing


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        ("0.5h", 1800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parsing.duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 minutes", "1h30", "m", "-", "nan", "9" * 30 + "w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a duration: write 90s"):
        parsing.duration(text)


def test_moments() -> None:
    noon = datetime(2030, 1, 31, 12, tzinfo=UTC)
    for text in ("2030-01-31T12:00:00Z", "2030-01-31T14:00+02:00", "2030-01-31 12:00:00+00:00"):
        assert parsing.moment(text) == noon


def test_what_is_no_moment_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="'tomorrow' is not a time"):
        parsing.moment("tomorrow")
    with pytest.raises(typer.BadParameter, match="has no time zone"):
        parsing.moment("2030-01-31T12:00:00")


def test_priorities() -> None:
    assert parsing.priority("High") == PRIORITY_HIGH
    assert parsing.priority("7") == 7
    with pytest.raises(typer.BadParameter, match="'urgent' is not a priority"):
        parsing.priority("urgent")


def test_headers() -> None:
    assert parsing.header("a=b=c") == ("a", "b=c")
    assert parsing.header("a=") == ("a", "")
    for text in ("a", "=b"):
        with pytest.raises(typer.BadParameter, match="write name=value"):
            parsing.header(text)
