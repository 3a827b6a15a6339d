"""Jobs computed on a Dask cluster; leases and settlements stay with the owner of the store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster

from taquba import Queue, QueueConfig
from taquba_jobs import JobFailed, JobRunner, gather
from tests.jobs.dask_jobs import die_once, fail, where

OpenQueue = Callable[..., Awaitable[Queue]]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    # A task whose worker died comes back at once, instead of going to the next worker.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as local,
        Client(local) as client,
        client.get_executor(retries=0) as executor,
    ):
        yield executor


@pytest.mark.allow_blocking("Dask's client talks to its cluster as it likes")
async def test_jobs_run_on_a_cluster_and_survive_a_killed_worker(
    open_queue: OpenQueue, cluster: Executor, tmp_path: Path
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    jobs = [where, die_once, fail]
    async with JobRunner(queue, jobs=jobs, executor=cluster, concurrency=8) as runner:
        results = await gather(await gather(runner.submit(where, number) for number in range(20)))
        assert [square for square, _ in results] == [number * number for number in range(20)]
        assert os.getpid() not in {pid for _, pid in results}

        killed = await runner.submit(die_once, str(tmp_path / "died"))
        assert await killed == 2
        with pytest.raises(JobFailed, match="ArithmeticError: on the worker"):
            await (await runner.submit(fail))
    stats = await queue.stats("jobs")
    assert (stats.done, stats.dead, stats.claimed, stats.pending) == (21, 1, 0, 0)


@pytest.mark.long
def test_the_example_runs() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.jobs_dask"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert "primes below 20000: 2262" in result.stdout
    assert "other processes at work: True" in result.stdout
