"""An owner of a folder that is about to be killed: submits keyed jobs and runs them.

python -m tests.jobs.kill_child FOLDER LOG COUNT
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

from taquba import Queue, QueueConfig
from taquba_jobs import JobContext, JobRunner, gather, job


@dataclass
class Log:
    file: int

    def note(self, what: str, number: int) -> None:
        os.write(self.file, f"{what} {number}\n".encode())


@job(name="square", idempotency_key=lambda number: str(number), max_attempts=1000)
async def square(ctx: JobContext[Log], number: int) -> tuple[int, bytes]:
    """Every fifth result is an object."""
    ctx.progress(number)
    await asyncio.sleep(0.002)
    ctx.state.note("ran", number)
    return number * number, bytes(100_000 if number % 5 == 0 else 10)


CONFIG = QueueConfig(retry_backoff_base=0)


async def main(folder: str, log: str, count: int) -> None:
    state = Log(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    async with (
        Queue.open(folder, default_config=CONFIG, fsync=False) as queue,
        JobRunner(queue, jobs=[square], state=state, concurrency=20) as runner,
    ):

        async def one(number: int) -> None:
            handle = await runner.submit(square, number)
            await handle
            state.note("known", number)

        await gather((one(number) for number in range(count)), concurrency=40)
        state.note("finished", count)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
