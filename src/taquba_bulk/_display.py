"""Shows the progress of a batch: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from taquba_bulk._report import ProgressSnapshot

_BAR_SECONDS: Final = 0.2
_LINE_SECONDS: Final = 10.0

Look = Callable[[], ProgressSnapshot]


@asynccontextmanager
async def showing(look: Look) -> AsyncGenerator[None]:
    """Show progress on standard error for as long as the block lasts."""
    bar = _bar(look) if sys.stderr.isatty() else None
    task = asyncio.create_task(
        _every(_LINE_SECONDS, lambda: _print(line_of(look())))
        if bar is None
        else _every(_BAR_SECONDS, bar),
        name="taquba-bulk-display",
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if bar is not None:
            bar()
            bar.close()


async def _every(seconds: float, show: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        show()


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Bar:
    """A progress bar of rich's."""

    def __init__(self, look: Look) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._look = look
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.fields[line]}", markup=False),
            console=Console(stderr=True, highlight=False),
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=None, line="")
        self._progress.start()

    def __call__(self) -> None:
        now = self._look()
        self._progress.update(
            self._task, total=now.total, completed=now.done, line=line_of(now), refresh=True
        )

    def close(self) -> None:
        self._progress.stop()


def _bar(look: Look) -> _Bar | None:
    """A bar, if rich is installed."""
    try:
        return _Bar(look)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        return None


def line_of(progress: ProgressSnapshot) -> str:
    """The progress of a batch, in a line."""
    of = "" if progress.total is None else f"/{progress.total:,}"
    parts = [f"{progress.done:,}{of} done", f"{progress.rate:,.1f}/s"]
    if progress.eta is not None and progress.done != progress.total:
        parts.append(f"{span(progress.eta)} left")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.cost:
        parts.append(costs_of(progress.cost))
    return ", ".join(parts)


def costs_of(costs: Mapping[str, float]) -> str:
    """Amounts with their metrics."""
    return ", ".join(f"{amount:,.10g} {metric}" for metric, amount in costs.items())


def span(length: timedelta) -> str:
    """A length of time in its two largest units."""
    seconds = round(length.total_seconds())
    for unit, name, smaller in (
        (86400, "d", (3600, "h")),
        (3600, "h", (60, "m")),
        (60, "m", (1, "s")),
    ):
        if seconds >= unit:
            rest = seconds % unit // smaller[0]
            return f"{seconds // unit}{name}" + (f"{rest}{smaller[1]}" if rest else "")
    return f"{seconds}s"
