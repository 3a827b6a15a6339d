"""What commands print: tables for people, JSON for programs.

On a terminal, tables fit its width and may be coloured; elsewhere every value is printed whole.
Text from a store is never interpreted as markup or as terminal control sequences.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taquba._cli.shapes import Document
from taquba._model.redaction import redact

_UNLIMITED: Final = 1_000_000
"""Width of an output that is not a terminal: nothing is folded or cut."""


class Column(NamedTuple):
    """A column of a table.

    `fit` says what happens if the terminal is too narrow: ``cut`` ends values with an ellipsis,
    ``fold`` continues them on the next line, so that they can be copied.
    """

    title: str
    fit: Literal["cut", "fold", "keep"] = "keep"
    right: bool = False


_GAP: Final = 2
_LEAST_WIDTHS: Final = {"cut": 8, "fold": 26}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the program, as if it had failed.
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console on the stream as it is now; colours follow the terminal and ``NO_COLOR``."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNLIMITED
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """A table that fits the terminal; elsewhere every value is whole."""
    out = console()
    drawn = table(columns, rows, out)
    if out.is_terminal:
        out.print(drawn)
        return
    with out.capture() as captured:
        out.print(drawn)
    for line in captured.get().splitlines():
        print(line.rstrip())


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], out: Console) -> Table:
    """A table that fits the console."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    longest = [
        max(cell_len(text) for text in (column.title, *(row[place] for row in cells)))
        for place, column in enumerate(columns)
    ]
    drawn = Table(
        # The box has a blank between columns.
        box=box.SIMPLE_HEAD if out.is_terminal else None,
        padding=(0, _GAP - 1 if out.is_terminal else _GAP, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for column, width in zip(columns, fitted(columns, longest, out.width), strict=True):
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.fit != "fold",
            overflow="fold" if column.fit == "fold" else "ellipsis",
            width=width,
        )
    for row in cells:
        drawn.add_row(*map(Text, row))
    return drawn


def fitted(columns: Sequence[Column], longest: Sequence[int], available: int) -> list[int]:
    """Widths of the columns; those that may be cut shrink first, then those that may fold."""
    widths = list(longest)
    for fit, least in _LEAST_WIDTHS.items():
        for place in sorted(range(len(columns)), key=lambda place: -widths[place]):
            excess = sum(widths) + _GAP * (len(columns) - 1) - available
            if excess > 0 and columns[place].fit == fit:
                widths[place] = max(widths[place] - excess, min(widths[place], least))
    return widths


def print_fields(fields: Iterable[tuple[str, str | None]]) -> None:
    """Names and values, one per line; those without a value are left out."""
    known = [(name, value) for name, value in fields if value is not None]
    width = max(len(name) for name, _ in known)
    out = console()
    for name, value in known:
        first, *rest = printable(value).split("\n")
        out.print(Text.assemble((f"{name:<{width}}  ", "bold"), first), soft_wrap=True)
        for line in rest:
            out.print(Text(" " * (width + 2) + line), soft_wrap=True)


def say(message: str) -> None:
    """A line on standard output."""
    console().print(Text(printable(message)), soft_wrap=True)


def note(message: str) -> None:
    """A line beside the output, on standard error."""
    console(stderr=True).print(Text(printable(message), style="dim"), soft_wrap=True)


def log_to_terminal() -> None:
    """Show the log on standard error, for a command that runs for a while."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def complain(message: str) -> None:
    """An error, on standard error."""
    text = Text("taquba: ", style="bold red") + Text(printable(redact(message)))
    console(stderr=True).print(text, soft_wrap=True)


def print_json(document: Document) -> None:
    """One document, on several lines."""
    _write(json.dumps(document, indent=2, ensure_ascii=_ascii_only()))


def print_json_line(document: Document) -> None:
    """One document of many, on a line of its own."""
    _write(json.dumps(document, ensure_ascii=_ascii_only()))


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _ascii_only() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"


def printable(text: str) -> str:
    """`text` with control characters escaped, except line breaks and tabs."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def one_line(text: str) -> str:
    """`text` for a table: white space is one blank, control characters are escaped."""
    return printable(" ".join(text.split()))


def bytes_text(value: bytes) -> str:
    """Bytes for a person: as text if they are text, otherwise their beginning in hexadecimal."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        more = " ..." if len(value) > _SHOWN_BYTES else ""
        return f"{len(value)} bytes: {value[:_SHOWN_BYTES].hex(' ')}{more}"


_SHOWN_BYTES: Final = 64


def size_text(count: int) -> str:
    """A number of bytes in the largest unit that fits."""
    if count < 1024:
        return f"{count} B"
    size, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}"


_SPANS: Final = (
    (timedelta(days=1), "d"),
    (timedelta(hours=1), "h"),
    (timedelta(minutes=1), "min"),
    (timedelta(seconds=1), "s"),
)


def relative(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago or ahead, in the largest unit that fits; empty for None."""
    if moment is None:
        return ""
    distance = (now or datetime.now(UTC)) - moment
    for span, unit in _SPANS:
        if abs(distance) >= span:
            count = abs(distance) // span
            return f"{count} {unit} ago" if distance > timedelta() else f"in {count} {unit}"
    return "now"


def moment_text(moment: datetime | None) -> str | None:
    """The full time with its distance from now."""
    if moment is None:
        return None
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({relative(moment)})"
