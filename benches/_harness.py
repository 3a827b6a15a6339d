"""What the benches share: options, stores, medians over runs, tables, the loop-stall meter."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.metadata
import inspect
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from taquba import EnqueueRequest, Queue, Store, TaqubaError

ROOT = Path(__file__).parent.parent
QUEUE = "bench"
BATCH = 1000

Value = float | int | None


class Row(NamedTuple):
    """One line of the table: a case, and what was measured of it."""

    case: str
    values: dict[str, Value]


Measure = Callable[[argparse.Namespace], list[Row] | Awaitable[list[Row]]]


class Place:
    """Where the stores of a bench live: memory, fresh local folders, or below a URL."""

    def __init__(self, store: str) -> None:
        self._root: Path | None = None
        self._url: str | None = None
        self.fsync = True
        if store in ("memory", "memory://"):
            self.kind = "memory"
        elif store in ("folder", "folder-nosync"):
            self.kind = "folder"
            self.fsync = store == "folder"
        elif "://" in store and not store.startswith(("memory:", "file:")):
            self.kind = "cloud"
            self._url = store.rstrip("/")
        else:
            raise argparse.ArgumentTypeError(
                f"{store!r} is not memory, folder, folder-nosync or the URL of a cloud store"
            )

    def __str__(self) -> str:
        if self.kind == "memory":
            return "memory"
        if self.kind == "cloud":
            return f"below {self._url}"
        sync = "fsync" if self.fsync else "no fsync"
        return f"fresh folders in {tempfile.gettempdir()}, {sync}"

    def describe(self) -> str:
        """The place, and for a folder how slow its disk is: no durable commit can be faster."""
        if self.kind != "folder" or not self.fsync:
            return str(self)
        with tempfile.TemporaryDirectory(prefix="taquba-bench-") as folder:
            return f"{self} (a small new file and its folder: {_sync_ms(Path(folder)):.2g} ms)"

    def new(self, *, shared: bool = False) -> str:
        """The URL of an empty store; a `shared` one in memory can be opened again."""
        name = uuid.uuid4().hex
        if self.kind == "memory":
            return f"memory://{name}" if shared else "memory://"
        if self.kind == "cloud":
            return f"{self._url}/{name}"
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="taquba-bench-"))
        return str(self._root / name)

    def open(self, url: str | None = None) -> Any:
        """Open a store, a new one by default; an owner that has it is fenced."""
        return Queue.open(self.new() if url is None else url, fsync=self.fsync, take_over=True)

    def remove(self) -> None:
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None


def _sync_ms(folder: Path) -> float:
    """Median time to write a small file and to put it and its folder on disk."""
    times: list[float] = []
    for number in range(30):
        with elapsed() as total:
            file = os.open(folder / f"{number}", os.O_CREAT | os.O_WRONLY)
            os.write(file, bytes(300))
            os.fsync(file)
            os.close(file)
            directory = os.open(folder, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        times.append(total.ms)
    return statistics.median(times)


@dataclass(frozen=True)
class Bench:
    """A question, how it is measured, and sizes that take about a second."""

    name: str
    question: str
    measure: Measure
    arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None
    small: Sequence[str] = ()
    runs: int = 3

    def main(self, argv: Sequence[str] | None = None) -> list[Row]:
        options = self._parser().parse_args(argv)
        place: Place = options.store
        print(f"{self.name}: {self.question}")
        where = f"{machine()}\nstore: {place.describe()}; medians of {options.runs} run(s)"
        print(where, end="\n\n", flush=True)
        runs: list[list[Row]] = []
        try:
            for _ in range(options.runs):
                gc.collect()
                runs.append(self._once(options))
        finally:
            place.remove()
        rows = medians(runs)
        print(table(rows), flush=True)
        if options.json:
            self._write_json(options, where, rows, runs)
        return rows

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f"python -m benches.{self.name}",
            description=self.question,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        parser.add_argument(
            "--store",
            type=Place,
            default="folder",
            help="memory, folder (a fresh one, fsync on), folder-nosync, or a cloud URL",
        )
        parser.add_argument("--runs", type=int, default=self.runs, help="runs to take medians of")
        parser.add_argument("--json", metavar="FILE", help="also write medians and all runs here")
        self.arguments(parser)
        return parser

    def _once(self, options: argparse.Namespace) -> list[Row]:
        measured = self.measure(options)
        if inspect.iscoroutine(measured):
            return asyncio.run(measured)
        assert isinstance(measured, list)
        return measured

    def _write_json(
        self, options: argparse.Namespace, where: str, rows: list[Row], runs: list[list[Row]]
    ) -> None:
        chosen = {name: str(value) for name, value in vars(options).items()}
        report = {
            "bench": self.name,
            "question": self.question,
            "where": where.splitlines(),
            "options": chosen,
            "medians": [row._asdict() for row in rows],
            "runs": [[row._asdict() for row in run] for run in runs],
        }
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def size_option(name: str, default: int, help_: str) -> Callable[[argparse.ArgumentParser], object]:
    """The usual only option of a bench."""
    return lambda parser: parser.add_argument(name, type=positive, default=default, help=help_)


# -- work ---------------------------------------------------------------------------------------


async def fill(queue: Store, jobs: int, payload: bytes = bytes(64), name: str = QUEUE) -> None:
    """Enqueue `jobs` jobs as fast as one caller can."""
    request = EnqueueRequest(name, payload)
    for start in range(0, jobs, BATCH):
        await queue.enqueue_batch([request] * min(BATCH, jobs - start))


async def drain(queue: Queue, jobs: int, name: str = QUEUE) -> None:
    """Claim and acknowledge `jobs` jobs by hand."""
    while jobs > 0:
        claims = await queue.claim_batch(name, min(BATCH, jobs))
        if not claims:
            raise RuntimeError(f"{jobs} jobs are missing in queue {name!r}")
        await asyncio.gather(*(queue.ack(claim) for claim in claims))
        jobs -= len(claims)


async def close_fenced(queue: Queue) -> None:
    """Close a queue whose store the next owner may have opened; how it takes that is no matter."""
    with suppress(TaqubaError):
        await queue.close()


async def expect(queue: Store, name: str = QUEUE, **counters: int) -> None:
    """Whether the work that was timed really happened."""
    stats = await queue.stats(name)
    for counter, expected in counters.items():
        if getattr(stats, counter) != expected:
            raise RuntimeError(f"{counter} should be {expected}: {stats}")


def child(module: str, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run ``python -m module --child ...`` and return the JSON object that it printed.

    A child may end by killing itself, once it has printed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, "--child", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if not done.stdout:
        raise RuntimeError(f"{module} {arguments} ended with {done.returncode} and said nothing")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


# -- numbers ------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def latency(seconds: Sequence[float]) -> dict[str, Value]:
    """Percentiles in ms."""
    return {
        "p50 ms": percentile(seconds, 50) * 1000,
        "p99 ms": percentile(seconds, 99) * 1000,
        "max ms": max(seconds) * 1000,
    }


@dataclass
class Elapsed:
    seconds: float = 0.0

    def rate(self, count: float) -> float:
        return count / self.seconds

    @property
    def ms(self) -> float:
        return self.seconds * 1000


@contextmanager
def elapsed() -> Iterator[Elapsed]:
    """Wall time of a block."""
    found = Elapsed()
    start = time.perf_counter()
    try:
        yield found
    finally:
        found.seconds = time.perf_counter() - start


@dataclass
class Stalls:
    """How long the event loop kept a timer waiting, at worst.

    `wall_ms` is what a user of the loop sees; it contains the time in which the operating system
    ran somebody else. `cpu_ms` is the CPU time of the loop's thread in its busiest such stretch.
    """

    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    _last: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def look(self) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        last_wall, last_cpu = self._last
        self.wall_ms = max(self.wall_ms, (wall - last_wall - _TICK) * 1000)
        self.cpu_ms = max(self.cpu_ms, (cpu - last_cpu) * 1000)
        self._last = wall, cpu


_TICK = 0.001


@contextmanager
def stalls() -> Iterator[Stalls]:
    """Watch the running loop with a 1 ms timer."""
    loop = asyncio.get_running_loop()
    found = Stalls(_last=(time.perf_counter(), time.thread_time()))
    timer: asyncio.TimerHandle | None = None

    def tick() -> None:
        nonlocal timer
        found.look()
        timer = loop.call_later(_TICK, tick)

    timer = loop.call_later(_TICK, tick)
    try:
        yield found
    finally:
        timer.cancel()
        found.look()


def memory_mb(field_: str = "VmRSS") -> float | None:
    """Resident memory of this process (``VmHWM``: its peak) in MB, where the system tells."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return None
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        if name == field_:
            return int(rest.split()[0]) / 1024
    return None


def medians(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """One row per case, with the median of each value over the runs."""
    rows: list[Row] = []
    for same_case in zip(*runs, strict=True):
        values: dict[str, Value] = {}
        for name in same_case[0].values:
            measured = [value for row in same_case if (value := row.values[name]) is not None]
            values[name] = statistics.median(measured) if measured else None
        rows.append(Row(same_case[0].case, values))
    return rows


# -- output -------------------------------------------------------------------------------------


def machine() -> str:
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("slatedb", "taquba"))
    parts = [
        _cpu_model(),
        f"{_cores()} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *versions,
    ]
    if hasattr(os, "getloadavg"):
        # Numbers from a busy machine say little: the load of the last minute tells.
        parts.append(f"load {os.getloadavg()[0]:.1f}")
    return ", ".join(parts)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [["", *names]]
    lines += [[row.case, *(_number(row.values.get(name)) for name in names)] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _number(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
