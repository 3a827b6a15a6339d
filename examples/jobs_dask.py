"""Outgrow one machine: jobs run on a Dask cluster, their state stays in the store.

    pip install taquba-jobs distributed
    python -m examples.jobs_dask                       # a cluster of local processes
    python -m examples.jobs_dask tcp://scheduler:8786  # one that is there already

This process owns the store: it submits, holds the leases, settles. The cluster only computes.
"""

from __future__ import annotations

import asyncio
import os
import sys

from distributed import Client, LocalCluster

from taquba import Queue
from taquba_jobs import JobContext, JobRunner, as_completed, gather, job, payload_idempotency_key


# Functions are found by name on the workers, so those need this module, as with any import.
@job(name="primes.count", idempotency_key=payload_idempotency_key, max_attempts=5)
def count_primes(ctx: JobContext, start: int, end: int) -> tuple[int, int]:
    """How many primes there are from `start` to before `end`, and the process that counted."""

    def is_prime(number: int) -> bool:
        return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))

    return sum(map(is_prime, range(start, end))), os.getpid()


async def main(scheduler: str | None) -> None:
    # Retries are the queue's business: Dask hands a failed task back at once.
    cluster = None
    if not scheduler:
        # On any port, for another cluster of the machine may have the usual one.
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with Client(scheduler or cluster) as client, client.get_executor(retries=0) as executor:
        async with (
            Queue.open("memory://") as queue,
            JobRunner(queue, jobs=[count_primes], executor=executor, concurrency=8) as runner,
        ):
            step = 2_000
            handles = await gather(
                runner.submit(count_primes, start, start + step) for start in range(0, 20_000, step)
            )
            async for handle in as_completed(handles):
                count, _ = await handle
                print(f"job {handle.id[-6:]}: {count}")
            results = await gather(handles)
            print("primes below 20000:", sum(count for count, _ in results))
            print("other processes at work:", os.getpid() not in {pid for _, pid in results})
    if cluster is not None:
        cluster.close()


if __name__ == "__main__":
    # Worker processes import the functions by this name, not as __main__.
    from examples.jobs_dask import main as run

    asyncio.run(run(sys.argv[1] if len(sys.argv) > 1 else None))
