"""Opening a store with a deep backlog, after SIGKILL and after a clean close."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from typing import Any

from benches._harness import (
    QUEUE,
    Bench,
    Place,
    Row,
    child,
    close_fenced,
    elapsed,
    expect,
    fill,
    memory_mb,
    size_option,
)
from taquba import Queue

MODULE = "benches.cold_start"
KILLED, CLOSED = "kill -9", "clean close"


async def leave_backlog(
    url: str, fsync: bool, jobs: int, *, close: bool
) -> tuple[Queue, dict[str, Any]]:
    """An owner that enqueues a backlog, and closes the store or not."""
    queue = await Queue.open(url, fsync=fsync)
    await fill(queue, jobs)
    report: dict[str, Any] = {"rss": memory_mb(), "peak": memory_mb("VmHWM"), "close": None}
    if close:
        with elapsed() as closing:
            await queue.close()
        report["close"] = closing.ms
    return queue, report


async def start(url: str, fsync: bool, jobs: int) -> dict[str, Any]:
    """An owner that opens the store and claims one job."""
    with elapsed() as opening:
        queue = await Queue.open(url, fsync=fsync, take_over=True)
    with elapsed() as first:
        claim = await queue.claim(QUEUE)
    if (claim is not None) != (jobs > 0):
        raise RuntimeError(f"of {jobs} jobs the first claim returned {claim}")
    report: dict[str, Any] = {"open": opening.ms, "first": first.ms}
    report |= {"rss": memory_mb(), "peak": memory_mb("VmHWM")}
    if claim is not None:
        await expect(queue, pending=jobs - 1, claimed=1)
        await queue.ack(claim)
    await queue.close()
    return report


def row(case: str, jobs: int, left: dict[str, Any], new: dict[str, Any], empty: Any) -> Row:
    def over_empty(report: dict[str, Any], what: str) -> float | None:
        return None if report.get(what) is None else report[what] - empty[what]

    return Row(
        case,
        {
            "jobs": jobs,
            "close ms": left.get("close"),
            "open ms": new["open"],
            "first claim ms": new["first"],
            "RSS MB over empty: new owner": over_empty(new, "rss"),
            "its peak": over_empty(new, "peak"),
            "owner before": over_empty(left, "rss"),
            "its peak ": over_empty(left, "peak"),
        },
    )


def measure(options: argparse.Namespace) -> list[Row]:
    place: Place = options.store
    if place.kind == "memory":
        return asyncio.run(in_this_process(place, options.jobs))
    sync = str(place.fsync)
    empty = child(MODULE, "start", place.new(), sync, "0")
    rows = [row("empty store", 0, {}, empty, empty)]
    for end in (KILLED, CLOSED):
        url = place.new()
        left = child(MODULE, "leave", url, sync, str(options.jobs), end)
        rows.append(
            row(
                end, options.jobs, left, child(MODULE, "start", url, sync, str(options.jobs)), empty
            )
        )
    return rows


async def in_this_process(place: Place, jobs: int) -> list[Row]:
    """Memory dies with its process, so here a crash is an owner that is fenced by the next."""
    rows = [row("empty store", 0, {}, _without_memory(await start(place.new(), False, 0)), None)]
    for case, close in (("owner fenced", False), (CLOSED, True)):
        url = place.new(shared=True)
        old, left = await leave_backlog(url, False, jobs, close=close)
        new = await start(url, False, jobs)
        await close_fenced(old)
        rows.append(row(case, jobs, _without_memory(left), _without_memory(new), None))
    return rows


def _without_memory(report: dict[str, Any]) -> dict[str, Any]:
    """Several owners share this process, so its memory says nothing about one."""
    return {**report, "rss": None, "peak": None}


def run_child(step: str, url: str, sync: str, jobs: str, end: str = "") -> None:
    fsync, count = sync == "True", int(jobs)
    if step == "start":
        print(json.dumps(asyncio.run(start(url, fsync, count))), flush=True)
        return

    async def leave() -> None:
        _, report = await leave_backlog(url, fsync, count, close=end == CLOSED)
        print(json.dumps(report), flush=True)
        if end == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(leave())


BENCH = Bench(
    "cold_start",
    "How long until an owner serves that opens a store with a deep backlog, and in what memory?",
    measure,
    size_option("--jobs", 100_000, "pending jobs"),
    small=("--jobs", "2000"),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(*sys.argv[2:])
    else:
        BENCH.main()
