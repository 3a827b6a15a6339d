"""One measurement after the other: a driver process on an empty store."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches._harness import ROOT
from benches.peers.catalog import Peer, Unavailable
from benches.peers.processes import process
from benches.peers.servers import Stores

COLUMNS = ("enqueue", "bulk", "process", "p50", "p99")


@dataclass(frozen=True)
class Work:
    jobs: int
    idle_jobs: int
    concurrency: int
    seconds: float
    """Time limit of one driver process."""


@dataclass
class Result:
    peer: Peer
    rounds: list[dict[str, float | None]] = field(default_factory=list)
    durability: str = ""
    failure: str | None = None

    def median(self, column: str) -> float | None:
        values = [value for round_ in self.rounds if (value := round_[column]) is not None]
        return statistics.median(values) if values else None


def measure(peers: list[Peer], work: Work, rounds: int, scratch: Path) -> list[Result]:
    """All peers, `rounds` times in turn. One that fails is tried no more, and says why."""
    results = [Result(peer) for peer in peers]
    for result in results:
        # All installing before all measuring.
        try:
            result.peer.python()
        except Unavailable as error:
            result.failure = str(error)
    with Stores(scratch) as stores:
        for number in range(1, rounds + 1):
            for result in results:
                if result.failure is None:
                    _one_round(result, work, stores, f"round {number} of {rounds}")
    return results


def _one_round(result: Result, work: Work, stores: Stores, which: str) -> None:
    start = time.monotonic()
    measured: dict[str, Any] = {}
    try:
        for task in ("bulk", "life"):
            with stores.empty(result.peer.store) as (url, seen):
                measured |= drive(result.peer, task, url, work)
                result.durability = seen or measured.get("durability") or ""
    except (Unavailable, OSError, subprocess.CalledProcessError) as error:
        result.failure = str(error)
    else:
        result.rounds.append({column: measured[column] for column in COLUMNS})
    said = result.failure or f"{time.monotonic() - start:.0f} s"
    print(f"{which}: {result.peer.name}: {said}", file=sys.stderr, flush=True)


def drive(peer: Peer, task: str, url: str, work: Work) -> dict[str, Any]:
    """Run the peer's driver and return what it printed."""
    command = [peer.python(), "-m", peer.module, task, "--url", url, "--jobs", f"{work.jobs}"]
    command += ["--concurrency", f"{work.concurrency}", "--idle-jobs", f"{work.idle_jobs}"]
    with process(
        _kill_group,
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as driver:
        try:
            output, errors = driver.communicate(timeout=work.seconds)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{task} took more than {work.seconds:.0f} s") from None
    if driver.returncode:
        raise Unavailable(f"{task} failed: {_last_line(errors)}")
    report: dict[str, Any] = json.loads(output)
    return report


def _kill_group(driver: subprocess.Popen[str]) -> None:
    """The driver and its worker process. Where both have ended, there is no such group."""
    with suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()


def _last_line(errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
