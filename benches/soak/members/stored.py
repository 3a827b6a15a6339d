"""What is in the store in the end, and the process that writes it down.

python -m benches.soak.members.stored URL FILE
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from benches.soak.examine import entries_of
from benches.soak.members.plan import QUEUES, read_content
from taquba import JobRecord, JobStatus, QueueReader


@dataclass
class StoredJob:
    """A job in the store.

    Attributes:
        history: Outcome of each attempt, and whether it counted.
    """

    id: str
    queue: str
    status: str
    attempts: int
    suspect: bool
    tag: str
    kind: str
    whole: bool
    history: list[tuple[str, bool]] = field(default_factory=list)


@dataclass
class Stored:
    """Every job and entry."""

    jobs: list[StoredJob]
    stats: dict[str, dict[str, int]]
    kv: dict[str, str]

    @classmethod
    def load(cls, text: str) -> Self:
        read = json.loads(text)
        jobs = [StoredJob(**job) for job in read["jobs"]]
        for job in jobs:
            job.history = [(outcome, counted) for outcome, counted in job.history]
        return cls(jobs, read["stats"], read["kv"])


async def jobs_of(reader: QueueReader, name: str, status: JobStatus) -> list[JobRecord]:
    found: list[JobRecord] = []
    cursor = None
    while True:
        page = await reader.list_jobs(name, status, cursor, limit=500)
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return found


async def stored_job(reader: QueueReader, record: JobRecord, status: JobStatus) -> StoredJob:
    what = read_content(record.payload)
    history = await reader.attempt_history(record.id)
    return StoredJob(
        record.id,
        record.queue,
        str(status.value),
        record.attempts,
        record.suspect,
        what["tag"],
        what["kind"],
        what["whole"],
        [(str(one.outcome.value), one.counted) for one in history],
    )


async def examine(url: str) -> Stored:
    async with QueueReader.open(url) as reader:
        jobs = [
            await stored_job(reader, record, status)
            for name in QUEUES
            for status in JobStatus
            for record in await jobs_of(reader, name, status)
        ]
        stats = {name: asdict(await reader.stats(name)) for name in QUEUES}
        return Stored(jobs, stats, await entries_of(reader))


def main(url: str, file: str) -> None:
    found: dict[str, Any] = asdict(asyncio.run(examine(url)))
    Path(file).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
