"""What the drivers share. It runs in the environments of the peers: standard library only.

A driver is a process that does one peer's work and prints what it measured as a JSON object:

    python -m benches.peers.drivers.NAME life --url URL --jobs N --concurrency C --idle-jobs I
    python -m benches.peers.drivers.NAME bulk --url URL --jobs N --concurrency C --idle-jobs I

Each on an empty store. The worker is a child process of it, unless the peer is embedded.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

PAYLOAD_BYTES = 64
# Jobs before the timed ones, per producer: connections are made, threads started.
WARMUP_PER_PRODUCER = 2
WARMUP_IDLE = 20
# Between two jobs of the idle queue. Random, so that no rhythm of polls falls in step with it.
IDLE_SECONDS = (0.002, 0.02)
_START = struct.Struct("=q")


class Handler:
    """What every job calls: it does nothing but count, and report some starts.

    It reports when the first and the last job of the backlog start, and every start from then
    on: the clock's nanoseconds, written to a pipe. The clock is the same in all processes.
    """

    def __init__(self, report: int, backlog: int) -> None:
        self._report = report
        self._backlog = backlog
        # Handlers may run in many threads; `next` of this is one step of the interpreter.
        self._numbers = itertools.count(1)

    def __call__(self, payload: str | bytes) -> None:
        started = time.monotonic_ns()
        if len(payload) != PAYLOAD_BYTES:
            raise ValueError(f"a payload of {PAYLOAD_BYTES} characters became {payload!r}")
        number = next(self._numbers)
        if number == 1 or number >= self._backlog:
            os.write(self._report, _START.pack(started))


class Driver(ABC):
    """A peer whose producers are tasks of an event loop."""

    payload: str | bytes = "x" * PAYLOAD_BYTES
    # Jobs per call of `enqueue_many`; 0 where the peer has no such call.
    batch = 0

    def __init__(self, url: str, concurrency: int) -> None:
        self.url = url
        self.concurrency = concurrency

    @abstractmethod
    async def open(self) -> None:
        """Connect, and make the tables where there are any."""

    @abstractmethod
    async def enqueue(self) -> None:
        """Enqueue one job; return when the peer says that it is stored."""

    async def enqueue_many(self, jobs: int) -> None:
        raise NotImplementedError

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def work(self, handle: Handler) -> None:
        """Be the worker process, until it is killed."""

    def durability(self) -> str | None:
        """What is seen on the peer's own connection, where no server can be asked."""
        return None

    async def produce(self, jobs: int) -> None:
        """Enqueue `jobs` jobs, `concurrency` at a time."""

        async def share(count: int) -> None:
            for _ in range(count):
                await self.enqueue()

        async with asyncio.TaskGroup() as producers:
            for count in shares(jobs, self.concurrency):
                producers.create_task(share(count))

    @asynccontextmanager
    async def worker(self, backlog: int) -> AsyncIterator[asyncio.StreamReader]:
        """A running worker process, and what its handler reports."""
        reader, report = await report_pipe()
        worker = self._start_worker(backlog, report)
        # With the worker's end of the pipe the only one, its death ends the report.
        os.close(report)
        try:
            yield reader
        finally:
            worker.kill()
            worker.wait()

    def _start_worker(self, backlog: int, report: int) -> subprocess.Popen[bytes]:
        module = sys.modules["__main__"].__spec__
        assert module is not None, "drivers are run as modules"
        command = [sys.executable, "-m", module.name, "work", "--url", self.url]
        command += ["--jobs", f"{backlog}", "--concurrency", f"{self.concurrency}"]
        command += ["--report", f"{report}"]
        return subprocess.Popen(command, stdout=sys.stderr, pass_fds=[report])


class ThreadedDriver(Driver):
    """A peer whose producers are threads."""

    def __init__(self, url: str, concurrency: int) -> None:
        super().__init__(url, concurrency)
        # Kept, since such peers have a connection per thread.
        self._producers = ThreadPoolExecutor(concurrency)

    @abstractmethod
    def enqueue_blocking(self) -> None: ...

    async def enqueue(self) -> None:
        self.enqueue_blocking()

    async def produce(self, jobs: int) -> None:
        def share(count: int) -> None:
            for _ in range(count):
                self.enqueue_blocking()

        for _ in self._producers.map(share, list(shares(jobs, self.concurrency))):
            pass


def shares(jobs: int, parts: int) -> Iterator[int]:
    """`jobs` in `parts` parts as equal as can be."""
    each, more = divmod(jobs, parts)
    return (each + (part < more) for part in range(parts))


async def report_pipe() -> tuple[asyncio.StreamReader, int]:
    """The reading end of a pipe on this loop, and the descriptor to write to."""
    read, write = os.pipe()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(read, "rb"))
    return reader, write


async def life(driver: Driver, jobs: int, idle_jobs: int) -> dict[str, Any]:
    """Jobs are enqueued; a worker that is started then works them off, and idles."""
    warmup = driver.concurrency * WARMUP_PER_PRODUCER
    backlog = jobs + warmup
    await driver.open()
    await driver.produce(warmup)
    start = time.monotonic_ns()
    await driver.produce(jobs)
    enqueue_rate = jobs / _seconds(start, time.monotonic_ns())
    async with driver.worker(backlog) as report:
        first = await _next_start(report)
        last = await _next_start(report)
        latencies = await _idle_latencies(driver, report, idle_jobs)
        durability = driver.durability()
    await driver.close()
    return {
        "enqueue": enqueue_rate,
        "process": (backlog - 1) / _seconds(first, last),
        "p50": statistics.median(latencies) * 1000,
        "p99": sorted(latencies)[max(0, -(-len(latencies) * 99 // 100) - 1)] * 1000,
        "durability": durability,
    }


async def bulk(driver: Driver, jobs: int) -> dict[str, Any]:
    """Jobs are enqueued by one caller in batches."""
    if not driver.batch:
        return {"bulk": None}
    await driver.open()
    await driver.enqueue_many(driver.batch)
    start = time.monotonic_ns()
    for first in range(0, jobs, driver.batch):
        await driver.enqueue_many(min(driver.batch, jobs - first))
    rate = jobs / _seconds(start, time.monotonic_ns())
    await driver.close()
    return {"bulk": rate}


async def _idle_latencies(driver: Driver, report: asyncio.StreamReader, jobs: int) -> list[float]:
    """Seconds from the call of `enqueue` to the handler's start, one job at a time."""
    found: list[float] = []
    for _ in range(WARMUP_IDLE + jobs):
        await asyncio.sleep(random.uniform(*IDLE_SECONDS))
        called = time.monotonic_ns()
        await driver.enqueue()
        found.append(_seconds(called, await _next_start(report)))
    return found[WARMUP_IDLE:]


async def _next_start(report: asyncio.StreamReader) -> int:
    try:
        (started,) = _START.unpack(await report.readexactly(_START.size))
    except asyncio.IncompleteReadError:
        raise RuntimeError("the worker process ended before its work was done") from None
    assert isinstance(started, int)
    return started


def _seconds(start_ns: int, end_ns: int) -> float:
    return (end_ns - start_ns) / 1e9


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop in the environments of those peers that come with it, else on asyncio."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def main(kind: type[Driver]) -> None:
    """The command line of a driver."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["life", "bulk", "work"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--idle-jobs", type=int)
    parser.add_argument("--report", type=int, help="descriptor that a worker writes to")
    options = parser.parse_args()
    driver = kind(options.url, options.concurrency)
    if options.task == "work":
        driver.work(Handler(options.report, options.jobs))
    elif options.task == "life":
        print(json.dumps(run(life(driver, options.jobs, options.idle_jobs))))
    else:
        print(json.dumps(run(bulk(driver, options.jobs))))
