"""The same enqueue work done in the ways that the design rejected, as ratios.

Each way runs in a process of its own, one after the other in every run. The ways that use SlateDB
directly do less than taquba: two rows per job and no counters (which, in a transaction each, would
make all producers conflict). They cannot fsync a local folder, so here taquba does not either.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from slatedb.uniffi import (
    DbBuilder,
    FlushOptions,
    FlushType,
    IsolationLevel,
    Settings,
)

from benches._harness import Bench, Place, Row, child, elapsed, positive
from benches.enqueue import produce
from taquba import Queue
from taquba._engine.object_store import connect_engine
from taquba._objects.location import StoreLocation

MODULE = "benches.design_reasons"

# case → (what the child does, its environment, its share of the jobs)
WAYS = {
    "taquba": ("taquba", "1", 1),
    "taquba, fast path off": ("taquba", "0", 1),
    "a transaction and a flush per job": ("flush", "1", 10),
    "a transaction per job, 100 ms ticker": ("ticker", "1", 20),
}


def measure(options: argparse.Namespace) -> list[Row]:
    place: Place = options.store
    rates: dict[str, dict[str, Any]] = {}
    for case, (way, fast, share) in WAYS.items():
        jobs = max(options.producers, options.jobs // share)
        rates[case] = child(
            MODULE,
            way,
            place.new(),
            str(jobs),
            str(options.producers),
            env={"TAQUBA_FAST_BINDING": fast},
        )
    ours = rates["taquba"]["jobs/s"]
    return [
        Row(case, {**values, "taquba is faster by": ours / values["jobs/s"]})
        for case, values in rates.items()
    ]


async def with_taquba(url: str, jobs: int, producers: int) -> dict[str, Any]:
    async with Queue.open(url, fsync=False) as queue:
        await produce(queue, 10, 100)  # warm up
        row = await produce(queue, producers, jobs)
    return {name: row.values[name] for name in ("jobs", "jobs/s", "p50 ms")}


async def with_transactions(way: str, url: str, jobs: int, producers: int) -> dict[str, Any]:
    location = StoreLocation.parse(url)
    builder = DbBuilder(location.path, connect_engine(location))
    settings = Settings.default()
    if way == "flush":
        settings.set("flush_interval", "null")
    builder.with_settings(settings)
    db = await builder.build()
    flush = FlushOptions(flush_type=FlushType.WAL)
    # Rows of about the size that a 64-byte job of taquba has.
    row, index = bytes(100), bytes(12)

    async def enqueue(number: int) -> None:
        transaction = await db.begin(IsolationLevel.SERIALIZABLE_SNAPSHOT)
        await transaction.put(b"pending" + number.to_bytes(32, "big"), row)
        await transaction.put(b"index" + number.to_bytes(26, "big"), index)
        handle = await transaction.commit()
        if way == "flush":
            await db.flush_with_options(flush)
        elif handle is not None:
            await handle.await_durable()

    numbers = iter(range(jobs + 10))

    async def producer() -> None:
        for number in numbers:
            await enqueue(number)

    for _ in range(10):
        await enqueue(next(numbers))  # warm up
    with elapsed() as total:
        await asyncio.gather(*(producer() for _ in range(producers)))
    await db.shutdown()
    # Every producer always has one job under way.
    return {"jobs": jobs, "jobs/s": total.rate(jobs), "p50 ms": total.ms * producers / jobs}


def run_child(way: str, url: str, jobs: str, producers: str) -> None:
    if way == "taquba":
        work = with_taquba(url, int(jobs), int(producers))
    else:
        work = with_transactions(way, url, int(jobs), int(producers))
    print(json.dumps(asyncio.run(work)), flush=True)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=20_000, help="fewer for the slow ways")
    parser.add_argument("--producers", type=positive, default=50)


BENCH = Bench(
    "design_reasons",
    "What do group commit, flush on demand and the binding's fast path gain?",
    measure,
    arguments,
    small=("--jobs", "500"),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(*sys.argv[2:])
    else:
        BENCH.main()
