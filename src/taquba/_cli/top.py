"""`top`: the counters of a store as they change."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from taquba import OwnerSigns, QueueReader, QueueStats
from taquba._cli import shapes
from taquba._cli.options import AsJson, Store, command, duration_option
from taquba._cli.output import Column, console, print_json_line, relative, table
from taquba._cli.overview import QUEUE_COLUMNS, queue_row, queue_stats, total_of
from taquba._cli.stores import reading

_COLUMNS: Final = (*QUEUE_COLUMNS, Column("DONE/S", right=True))
_PAUSE: Final = timedelta(seconds=1)
_QUIT_KEYS: Final = (b"q", b"Q")


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen at one moment."""

    at: float
    queues: dict[str, QueueStats]
    owner: OwnerSigns
    changed_at: datetime | None

    def done_rates(self, before: _Look | None) -> dict[str, float | None]:
        """Jobs completed per second since the look before, by queue; None where there was none."""
        rates: dict[str, float | None] = {}
        for name, counts in self.queues.items():
            earlier = None if before is None else before.queues.get(name)
            rates[name] = (
                None
                if before is None or earlier is None
                else (counts.done - earlier.done) / (self.at - before.at)
            )
        return rates


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(
        app,
        "top",
        "taquba top -s ./data",
        "taquba top -s ./data --every 5s",
        "taquba top -s ./data --json -n 1",
    )(top)


async def top(
    store: Store,
    every: Annotated[
        timedelta | None, duration_option("--every", "How often to look; every second if not said.")
    ] = None,
    times: Annotated[
        int | None,
        typer.Option("--times", "-n", min=1, metavar="N", help="Look so often, then end."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch the queues; q or Ctrl-C ends it.

    With --json, or where the output is no terminal, every look is printed.
    """
    on_screen = not as_json and sys.stdout.isatty()
    pause = every or _PAUSE
    stop = asyncio.Event()
    async with reading(store, every=pause) as reader:
        with _quit_key(stop), _screen(on_screen) as screen:
            before: _Look | None = None
            while not stop.is_set():
                look = await _look(reader)
                rates = look.done_rates(before)
                if as_json:
                    print_json_line(_document(store, look, rates))
                elif screen is not None:
                    screen.update(_picture(store, look, rates, screen.console), refresh=True)
                else:
                    out = console()
                    out.print(_picture(store, look, rates, out))
                    sys.stdout.flush()
                before = look
                if times is not None:
                    times -= 1
                    if times == 0:
                        break
                try:
                    await asyncio.wait_for(stop.wait(), pause.total_seconds())
                except TimeoutError:
                    continue


async def _look(reader: QueueReader) -> _Look:
    return _Look(
        time.monotonic(),
        await queue_stats(reader),
        await reader.detect_owner(patience=0),
        await reader.last_store_activity(),
    )


def _picture(store: str, look: _Look, rates: dict[str, float | None], out: Console) -> Group:
    total = total_of(list(look.queues.values()))
    known = [rate for rate in rates.values() if rate is not None]
    rows = [
        [*queue_row(name, counts), _rate_text(rates[name])] for name, counts in look.queues.items()
    ]
    if len(rows) > 1:
        rows.append([*queue_row("(all)", total), _rate_text(sum(known) if known else None)])
    changed = relative(look.changed_at) or "never"
    return Group(
        Text(store, style="bold"),
        Text(f"last change {changed}; owner {look.owner.presence.value}"),
        Text(),
        table(_COLUMNS, rows, out),
    )


def _rate_text(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.1f}"


def _document(store: str, look: _Look, rates: dict[str, float | None]) -> shapes.Document:
    return {
        "store": store,
        "changed_at": shapes.moment(look.changed_at),
        "owner": look.owner.presence.value,
        "queues": [
            {"queue": name, **shapes.stats(counts), "done_per_second": rates[name]}
            for name, counts in look.queues.items()
        ],
    }


@contextmanager
def _screen(wanted: bool) -> Generator[Live | None]:
    """The terminal's other screen, so that the one before comes back unharmed."""
    if not wanted:
        yield None
        return
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        yield live


@contextmanager
def _quit_key(stop: asyncio.Event) -> Generator[None]:
    """Set `stop` when q is pressed, where there is a keyboard."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        key = os.read(keyboard, 1)
        if not key or key in _QUIT_KEYS:
            stop.set()

    # Keys come one by one and unseen; Ctrl-C stays a signal.
    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
