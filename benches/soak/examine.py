"""Writes down everything that is in a store, read through the public API.

python -m benches.soak.examine URL FILE
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from taquba import JobStatus, QueueReader


async def jobs_of(reader: QueueReader, name: str, status: JobStatus) -> list[list[Any]]:
    """Id and attempts of every job of a queue in one state, payloads read and thrown away."""
    found: list[list[Any]] = []
    cursor = None
    while True:
        page = await reader.list_jobs(name, status, cursor, limit=500)
        found += [[job.id, job.attempts, len(job.payload)] for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def entries_of(reader: QueueReader) -> dict[str, str]:
    found: dict[str, str] = {}
    cursor = None
    while True:
        page = await reader.kv_scan("", cursor, limit=500)
        found.update((entry.key, entry.value.decode()) for entry in page.entries)
        cursor = page.next_cursor
        if cursor is None:
            return found


async def examine(url: str) -> dict[str, Any]:
    async with QueueReader.open(url) as reader:
        queues = {
            name: {
                "stats": asdict(await reader.stats(name)),
                "jobs": {status: await jobs_of(reader, name, status) for status in JobStatus},
            }
            for name in await reader.list_queues()
        }
        return {"queues": queues, "kv": await entries_of(reader)}


if __name__ == "__main__":
    state = asyncio.run(examine(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(state), "utf-8")
