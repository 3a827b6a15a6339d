"""Worker specs with processes of their own: new interpreters under a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from taquba import (
    AttemptOutcome,
    InvalidArgument,
    JobRecord,
    JobStatus,
    LeaseHandle,
    Queue,
    QueueConfig,
    Service,
    WaitStatus,
    WorkerSpec,
    run_service,
    run_workers,
)
from taquba._service.processes import Processes, Program
from taquba.testing import MockClock
from tests.service import process_functions as functions
from tests.service.process_functions import Holding, Meeting

ROOT = Path(__file__).parents[2]
PARENT = Path(__file__).with_name("processes_parent.py")
SECONDS = 60
"""What nothing here takes."""

NO_WAIT = QueueConfig(
    max_attempts=2, retry_backoff_base=0, retry_jitter=0, keep_done_jobs=3600, dead_retention=None
)


def service_of(place: Path, *specs: WorkerSpec, **options: Any) -> Service:
    return Service(place / "s", list(specs), fsync=False, default_config=NO_WAIT, **options)


@contextlib.asynccontextmanager
async def owning(place: Path, *specs: WorkerSpec) -> AsyncIterator[Service]:
    async with service_of(place, *specs) as service:
        # What is enqueued before there is an owner is seen later.
        await service.stats("q")
        yield service


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


async def said(path: Path) -> list[str]:
    """The words in a file, once it is there."""
    await until(path.exists)
    return words(path)


def words(path: Path) -> list[str]:
    return path.read_text().split()


def files(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


async def must_complete(service: Service, job_id: str) -> JobRecord:
    outcome = await service.wait_for_completion(job_id, SECONDS)
    assert outcome.status is WaitStatus.COMPLETED
    assert outcome.job is not None
    return outcome.job


def is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


async def test_each_process_runs_jobs_of_its_own(short_path: Path) -> None:
    async with owning(short_path, WorkerSpec("q", Meeting(short_path, 3), processes=3)) as service:
        jobs = [(await service.enqueue("q", b"")).id for _ in range(3)]
        for job_id in jobs:
            assert (await must_complete(service, job_id)).status is JobStatus.DONE
    processes = {word for path in files(short_path, "*.here") for word in words(path)}
    assert len(processes) == 3
    assert str(os.getpid()) not in processes


async def test_a_process_that_is_killed_is_replaced_and_its_job_runs_again_alone(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with owning(short_path, WorkerSpec("q", Holding(short_path), processes=1)) as service:
        job_id = (await service.enqueue("q", b"")).id
        first, trust = await said(short_path / f"{job_id}.run0")
        assert trust == "trusted"
        os.kill(int(first), signal.SIGKILL)
        second, trust = await said(short_path / f"{job_id}.run1")
        assert second != first
        assert trust == "suspect"
        (short_path / f"{job_id}.go").touch()
        job = await must_complete(service, job_id)
        assert (job.status, job.attempts) == (JobStatus.DONE, 1)
        history = await service.attempt_history(job_id)
        assert [(one.outcome, one.counted) for one in history] == [
            (AttemptOutcome.INTERRUPTED, False),
            (AttemptOutcome.COMPLETED, True),
        ]
    assert f"process {first} of queue 'q' has ended after" in caplog.text
    assert "signal SIGKILL" in caplog.text


async def test_what_dies_again_and_again_is_started_after_a_pause_that_grows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = asyncio.Event()
    processes = Processes([Program.pack("the test", functions.dies, 1)], None)
    async with processes.running(stop):
        await until(lambda: "another one is started in 0.4 s" in caplog.text)
        stop.set()
    ends = [one.getMessage() for one in caplog.records if "has ended after" in one.getMessage()]
    assert all("of the test" in end and "exit code 3" in end for end in ends)
    pauses = [end.rpartition(" in ")[2] for end in ends]
    assert pauses == ["0.1 s", "0.2 s", "0.4 s"]


# -- the end of the parent ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def parent(
    place: Path, drain_timeout: object = "none"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A parent in a process group of its own, with two jobs that run in its children."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PARENT), str(place / "s"), str(place), str(drain_timeout)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        for number in range(2):
            await said(place / f"job{number}.run0")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(SECONDS):
        return await process.wait()


async def attempts_of(place: Path) -> list[tuple[JobStatus, int]]:
    async with Queue.open(place / "s", fsync=False, default_config=NO_WAIT) as queue:
        found: list[tuple[JobStatus, int]] = []
        for status in (JobStatus.PENDING, JobStatus.CLAIMED, JobStatus.DONE, JobStatus.DEAD):
            page = await queue.list_jobs("q", status)
            found += [(job.status, job.attempts) for job in page.jobs]
        return found


async def test_when_the_parent_is_killed_its_children_end(short_path: Path) -> None:
    async with parent(short_path, 0.1) as process:
        locks = files(short_path, "*.lock")
        assert len(locks) == 2
        assert not any(map(is_free, locks))
        process.kill()
        await until(lambda: all(map(is_free, locks)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_group_lets_jobs_finish(
    short_path: Path, number: signal.Signals
) -> None:
    async with parent(short_path) as process:
        os.killpg(process.pid, number)
        # What a child does that a signal ends happens at once.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.5)
        for job in range(2):
            (short_path / f"job{job}.go").touch()
        assert await ended(process) == 0
    async with Queue.open(short_path / "s", fsync=False) as queue:
        stats = await queue.stats("q")
    assert (stats.done, stats.pending, stats.claimed) == (2, 0, 0)


async def test_a_second_signal_gives_jobs_back(short_path: Path) -> None:
    async with parent(short_path) as process:
        os.killpg(process.pid, signal.SIGINT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.5)
        os.killpg(process.pid, signal.SIGINT)
        await ended(process)
        assert await attempts_of(short_path) == [(JobStatus.PENDING, 0)] * 2


async def test_what_is_not_done_in_time_returns(short_path: Path) -> None:
    async with parent(short_path, 0.1) as process:
        process.send_signal(signal.SIGTERM)
        await ended(process)
        assert await attempts_of(short_path) == [(JobStatus.PENDING, 0)] * 2


# -- functions that do not end ------------------------------------------------------------------


async def test_a_function_that_never_ends_is_given_up_and_nothing_else(short_path: Path) -> None:
    spec = WorkerSpec("q", functions.never_ends, processes=2, concurrency=5, timeout=0.5, kill=True)
    async with owning(short_path, spec) as service:
        bad = (await service.enqueue("q", b"never")).id
        others = [(await service.enqueue("q", b"")).id for _ in range(50)]
        job = await must_complete(service, bad)
        assert (job.status, job.attempts) == (JobStatus.DEAD, 2)
        assert [one.error for one in await service.attempt_history(bad)] == [
            "TimeoutError: the handler ran longer than its timeout of 0.5 s"
        ] * 2
        for other in others:
            job = await must_complete(service, other)
            assert (job.status, job.attempts) == (JobStatus.DONE, 1)


async def test_an_async_handler_that_ignores_its_timeout_is_ended(short_path: Path) -> None:
    spec = WorkerSpec("q", functions.never_ends_async, processes=1, timeout=0.3, kill=True)
    async with owning(short_path, spec) as service:
        job_id = (await service.enqueue("q", b"ignores", max_attempts=1)).id
        # The one behind it is run by the next process.
        other = (await service.enqueue("q", b"")).id
        job = await must_complete(service, job_id)
        assert job.status is JobStatus.DEAD
        assert job.last_error == "TimeoutError: the handler ran longer than its timeout of 0.3 s"
        assert (await must_complete(service, other)).status is JobStatus.DONE


async def test_one_that_obeys_its_timeout_costs_no_process(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = WorkerSpec("q", functions.never_ends_async, processes=1, timeout=0.3, kill=True)
    async with owning(short_path, spec) as service:
        job_id = (await service.enqueue("q", b"obeys", max_attempts=1)).id
        assert (await must_complete(service, job_id)).status is JobStatus.DEAD
    assert "has ended after" not in caplog.text


async def test_a_blocked_event_loop_ends_its_process(short_path: Path) -> None:
    """Nobody can say which job it was: it is found out as for any process that dies."""
    spec = WorkerSpec(
        "q", functions.never_ends_async, processes=1, concurrency=5, timeout=0.3, kill=True
    )
    async with owning(short_path, spec) as service:
        job_id = (await service.enqueue("q", b"blocks", max_attempts=1)).id
        others = [(await service.enqueue("q", b"")).id for _ in range(10)]
        job = await must_complete(service, job_id)
        assert job.status is JobStatus.DEAD
        history = await service.attempt_history(job_id)
        assert [one.outcome for one in history][:1] == [AttemptOutcome.INTERRUPTED]
        for other in others:
            job = await must_complete(service, other)
            assert (job.status, job.attempts) == (JobStatus.DONE, 1)


# -- refusals -----------------------------------------------------------------------------------


async def handle(job: JobRecord, lease: LeaseHandle) -> None: ...


def refused(match: str, spec: WorkerSpec, **options: Any) -> None:
    with pytest.raises(InvalidArgument, match=match):
        Service("./nowhere", [spec], **options)


def test_what_cannot_be_sent_is_refused_by_name(tmp_path: Path) -> None:
    spec = WorkerSpec("q", handle, processes=2)
    refused("<lambda>.* top level", WorkerSpec("q", lambda job, lease: None, processes=2))

    async def local(job: JobRecord, lease: LeaseHandle) -> None: ...

    refused("local.* top level", WorkerSpec("q", local, processes=2))
    refused(r"clock=.* queue 'q'.* leave it out", spec, clock=MockClock())
    refused(r"telemetry=.* queue 'q'", spec, telemetry=MeterProvider())
    with ThreadPoolExecutor(1) as pool:
        plain = partial(functions.never_ends)
        refused("executor of queue 'q'", WorkerSpec("q", plain, processes=1, executor=pool))
    Service(tmp_path / "s", [WorkerSpec("q", local, processes=0)])


def test_settings_that_make_no_sense_are_refused() -> None:
    refused("kill=True of queue 'q'.* set processes", WorkerSpec("q", handle, timeout=1, kill=True))
    refused("set timeout", WorkerSpec("q", handle, processes=1, kill=True))
    refused("processes must be", WorkerSpec("q", handle, processes=-1))
    refused(
        "leave executor out",
        WorkerSpec(
            "q", functions.never_ends, processes=1, kill=True, timeout=1,
            executor=partial(ThreadPoolExecutor, 1),
        ),
    )  # fmt: skip


async def test_a_queue_starts_no_processes(queue: Queue) -> None:
    for spec in (
        WorkerSpec("q", handle, processes=2),
        WorkerSpec("q", handle, timeout=1, kill=True),
    ):
        with pytest.raises(InvalidArgument, match="only a Service starts processes"):
            await run_workers(queue, spec, handle_signals=False)


async def test_a_service_is_run_with_its_own_settings(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="give the settings to the Service"):
        await run_service(service_of(tmp_path), role="worker")
