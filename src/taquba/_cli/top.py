"""`top`: the counters of a store as they change."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from taquba import OwnerSigns, QueueReader, QueueStats, StoreError
from taquba._cli import shapes
from taquba._cli.options import AsJson, Store, command, duration_option
from taquba._cli.output import Column, complain, console, print_json_line, relative, table
from taquba._cli.overview import QUEUE_COLUMNS, queue_row, queue_stats, total_of
from taquba._cli.stores import reading

_COLUMNS: Final = (*QUEUE_COLUMNS, Column("DONE/S", right=True))
_PAUSE: Final = timedelta(seconds=1)
_QUIT_KEYS: Final = (b"q", b"Q")


@dataclass(frozen=True, slots=True)
class _Look:
    """The state of a store at one moment."""

    at: float
    queues: dict[str, QueueStats]
    owner: OwnerSigns
    changed_at: datetime | None

    def done_rates(self, before: _Look | None) -> dict[str, float | None]:
        """Jobs completed per second since the previous look, by queue; None for the first look."""
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
        timedelta | None, duration_option("--every", "How often to look; every second by default.")
    ] = None,
    times: Annotated[
        int | None,
        typer.Option("--times", "-n", min=1, metavar="N", help="Look this many times, then end."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch the queues; q or Ctrl-C ends it.

    With --json, or if the output is not a terminal, every look is printed. A look that fails is
    reported, and the next one may succeed.
    """
    pause = every or _PAUSE
    stop = asyncio.Event()
    on_screen = not as_json and sys.stdout.isatty()
    with _quit_key(stop), _screen(on_screen) as screen:
        watch = _Watch(store, screen, as_json, stop, pause.total_seconds(), times)
        while not watch.over:
            try:
                async with reading(store, every=pause) as reader:
                    await watch.follow(reader)
            except StoreError as error:
                # Files may be removed while they are read, and networks fail for a while. A
                # location that never worked is a mistake of the caller.
                if watch.newest is None:
                    raise
                await watch.fail(error)


class _Watch:
    """Looks at a store and shows its state, until it is stopped or has looked often enough."""

    def __init__(
        self,
        store: str,
        screen: Live | None,
        as_json: bool,
        stop: asyncio.Event,
        pause: float,
        times: int | None,
    ) -> None:
        self._store = store
        self._screen = screen
        self._as_json = as_json
        self._stop = stop
        self._pause = pause
        self._left = times
        self.newest: _Look | None = None

    @property
    def over(self) -> bool:
        return self._stop.is_set() or self._left == 0

    async def follow(self, reader: QueueReader) -> None:
        while not self.over:
            look = await _look(reader)
            before, self.newest = self.newest, look
            self._show(look, look.done_rates(before))
            await self._rest()

    async def fail(self, error: StoreError) -> None:
        """Say why this look failed."""
        if self._screen is None:
            complain(str(error))
        else:
            assert self.newest is not None
            picture = _picture(self._store, self.newest, {}, self._screen.console, str(error))
            self._screen.update(picture, refresh=True)
        await self._rest()

    def _show(self, look: _Look, rates: dict[str, float | None]) -> None:
        if self._as_json:
            print_json_line(_document(self._store, look, rates))
        elif self._screen is not None:
            picture = _picture(self._store, look, rates, self._screen.console)
            self._screen.update(picture, refresh=True)
        else:
            out = console()
            out.print(_picture(self._store, look, rates, out))
            sys.stdout.flush()

    async def _rest(self) -> None:
        if self._left is not None:
            self._left -= 1
        if not self.over:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._pause)


async def _look(reader: QueueReader) -> _Look:
    return _Look(
        time.monotonic(),
        await queue_stats(reader),
        await reader.detect_owner(patience=0),
        await reader.last_store_activity(),
    )


def _picture(
    store: str,
    look: _Look,
    rates: dict[str, float | None],
    out: Console,
    trouble: str | None = None,
) -> Group:
    total = total_of(list(look.queues.values()))
    known = [rate for rate in rates.values() if rate is not None]
    rows = [
        [*queue_row(name, counts), _rate_text(rates.get(name))]
        for name, counts in look.queues.items()
    ]
    if len(rows) > 1:
        rows.append([*queue_row("(all)", total), _rate_text(sum(known) if known else None)])
    changed = relative(look.changed_at) or "never"
    return Group(
        Text(store, style="bold"),
        Text(f"last change {changed}; owner {look.owner.presence.value}"),
        # Above the table: the end of a long one is below the screen.
        Text() if trouble is None else Text(trouble, "red"),
        table(_COLUMNS, rows, out),
    )


def _rate_text(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.1f}"


def _document(store: str, look: _Look, rates: dict[str, float | None]) -> shapes.Document:
    return {
        "store": store,
        "changed_at": shapes.json_moment(look.changed_at),
        "owner": look.owner.presence.value,
        "queues": [
            {"queue": name, **shapes.stats(counts), "done_per_second": rates[name]}
            for name, counts in look.queues.items()
        ],
    }


@contextmanager
def _screen(wanted: bool) -> Generator[Live | None]:
    """The terminal's alternate screen, so that the original one comes back unchanged."""
    if not wanted:
        yield None
        return
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        yield live


@contextmanager
def _quit_key(stop: asyncio.Event) -> Generator[None]:
    """Set `stop` when q is pressed, if there is a keyboard."""
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

    # Keys arrive one by one and without echo; Ctrl-C stays a signal.
    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
