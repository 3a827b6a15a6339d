from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from taquba._cli.output import (
    Column,
    bytes_text,
    fitted,
    one_line,
    printable,
    relative,
    size_text,
    table,
)

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(), "now"),
        (timedelta(milliseconds=900), "now"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=3, seconds=59), "3 min ago"),
        (timedelta(hours=25), "1 d ago"),
        (timedelta(hours=-5), "in 5 h"),
        (timedelta(seconds=-90), "in 1 min"),
    ],
)
def test_relative_times(ago: timedelta, text: str) -> None:
    assert relative(NOW - ago, NOW) == text


def test_no_time_is_empty() -> None:
    assert relative(None) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[31mb\nc\td\x07") == "a\\x1b[31mb\nc\td\\x07"
    assert one_line(" a\n\tb \x1b ") == "a b \\x1b"
    assert printable("ünïcode ✓") == "ünïcode ✓"


def test_bytes_for_a_person() -> None:
    assert bytes_text("grüße".encode()) == "grüße"
    assert bytes_text(b"\xff\x00") == "2 bytes: ff 00"
    assert bytes_text(b"\xff" * 65).endswith("ff ...")


COLUMNS = (Column("ID", "fold"), Column("WHEN"), Column("ERROR", "cut"))


def test_a_table_that_fits_is_not_narrowed() -> None:
    assert fitted(COLUMNS, [26, 9, 20], 80) == [26, 9, 20]


def test_columns_that_may_be_cut_give_way_first() -> None:
    assert fitted(COLUMNS, [26, 9, 400], 80) == [26, 9, 41]
    assert fitted(COLUMNS, [128, 9, 400], 80) == [59, 9, 8]
    assert fitted(COLUMNS, [26, 9, 3], 20) == [26, 9, 3]


def drawn(width: int, *, terminal: bool) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    row = ["x" * 60, "3 min ago", "an error text " * 20]
    out.print(table(COLUMNS, [row], out))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


def test_a_table_on_a_terminal_fits_it_and_keeps_ids_whole() -> None:
    lines = drawn(80, terminal=True)
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("x") == 60
    assert "…" in "".join(lines)


def test_a_table_elsewhere_has_one_line_per_row_and_all_of_each_value() -> None:
    lines = drawn(1_000_000, terminal=False)
    assert len(lines) == 2
    assert ("an error text " * 20).strip() in lines[1]


def test_what_looks_like_markup_is_text() -> None:
    out = Console(file=io.StringIO(), width=80, force_terminal=False)
    out.print(table([Column("A")], [["[bold]x[/bold] :smile:"]], out))
    assert isinstance(out.file, io.StringIO)
    assert "[bold]x[/bold] :smile:" in out.file.getvalue()
