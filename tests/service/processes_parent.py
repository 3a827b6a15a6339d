"""A service whose jobs run in child processes, until it is told to stop.

    python processes_parent.py STORE FOLDER DRAIN_TIMEOUT

It enqueues two jobs.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from taquba import Service, WorkerSpec, run_service
from tests.service.process_functions import Holding


async def main(url: str, folder: Path, drain_timeout: float | None) -> None:
    spec = WorkerSpec("q", Holding(folder), processes=2)
    service = Service(url, [spec], fsync=False, drain_timeout=drain_timeout)
    running = asyncio.create_task(run_service(service))
    await asyncio.sleep(0)
    for number in range(2):
        await service.enqueue("q", b"", job_id=f"job{number}")
    await running


if __name__ == "__main__":
    drain = None if sys.argv[3] == "none" else float(sys.argv[3])
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), drain))
