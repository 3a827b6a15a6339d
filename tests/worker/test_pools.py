"""Executors that break: who pays, what is made anew, and what comes back from other processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from multiprocessing import get_context
from pathlib import Path

import pytest

from taquba import (
    EnqueueRequest,
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    JobStatus,
    LeaseHandle,
    Queue,
    QueueConfig,
    run_worker,
)
from taquba_jobs import JobContext, JobFailed, JobRunner, job
from tests.worker.group_child import RUNNING
from tests.worker.pool_functions import Unloadable, end_unless, work, worked
from tests.worker.support import REAL_SECONDS, finish, working

EAGER = QueueConfig(retry_backoff_base=0, retry_jitter=0, keep_done_jobs=3600, max_attempts=2)
PROCESSES = get_context("forkserver")
# Pools are made anew often here: their processes need not import what they run.
PROCESSES.set_forkserver_preload(["tests.worker.pool_functions"])
CHILD = Path(__file__).with_name("group_child.py")


def two() -> Executor:
    return ProcessPoolExecutor(2, mp_context=PROCESSES)


async def opened() -> Queue:
    """On the machine's clock: the pauses of real processes are waited for."""
    return await Queue.open("memory://", default_config=EAGER)


async def test_a_job_that_kills_its_pool_is_given_up_and_those_beside_it_pay_nothing() -> None:
    async with await opened() as queue:
        payloads = [b"fine"] * 5 + [b"killed"] + [b"fine"] * 20
        added = await queue.enqueue_batch([EnqueueRequest("q", payload) for payload in payloads])
        ids = [result.id for result in added]
        async with working(queue, work, concurrency=2, executor=two):
            jobs = await finish(queue, *ids)
        killer = jobs.pop(5)
        assert killer is not None
        assert (killer.status, killer.attempts) == (JobStatus.DEAD, 2)
        assert killer.last_error is not None
        assert "ended 2 times while it ran alone" in killer.last_error
        assert "BrokenProcessPool" in killer.last_error
        counted = [entry.counted for entry in await queue.attempt_history(killer.id)]
        assert counted == [False, True, True]
        for fine in jobs:
            assert fine is not None
            assert (fine.status, fine.attempts) == (JobStatus.DONE, 1)


async def test_only_what_may_have_begun_in_a_broken_pool_is_suspected() -> None:
    async with await opened() as queue:
        killer = (await queue.enqueue("q", b"killed")).id
        await queue.enqueue_batch([EnqueueRequest("q", b"fine")] * 30)
        with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool, pytest.raises(BrokenExecutor):
            await asyncio.wait_for(
                run_worker(queue, "q", work, concurrency=40, executor=pool), REAL_SECONDS
            )
        page = await queue.list_jobs("q", "pending")
    assert len(page.jobs) == 31
    assert {found.attempts for found in page.jobs} == {0}
    suspects = [found.id for found in page.jobs if found.suspect]
    assert killer in suspects
    # One runs, and another one is on its way to the process.
    assert len(suspects) <= 2


async def test_a_ready_made_pool_that_breaks_ends_the_worker_and_gives_its_jobs_back() -> None:
    async with await opened() as queue:
        payloads = [b"killed"] + [b"fine"] * 10
        await queue.enqueue_batch([EnqueueRequest("q", payload) for payload in payloads])
        with two() as pool, pytest.raises(BrokenExecutor) as broken:
            await asyncio.wait_for(
                run_worker(queue, "q", work, concurrency=2, executor=pool), REAL_SECONDS
            )
        assert any("executor=lambda" in note for note in broken.value.__notes__)
        stats = await queue.stats("q")
        assert (stats.claimed, stats.dead, stats.scheduled) == (0, 0, 0)
        page = await queue.list_jobs("q", "pending")
        assert {found.attempts for found in page.jobs} == {0}
        assert any(found.suspect for found in page.jobs)
        # The next loop may go on with another one.
        async with working(queue, work, concurrency=2, executor=two):
            await finish(queue, *[found.id for found in page.jobs])
        assert (await queue.stats("q")).dead == 1


@pytest.mark.parametrize("make", [two, lambda: ThreadPoolExecutor(1)], ids=["process", "thread"])
async def test_an_executor_that_was_shut_down_ends_the_worker_and_nobody_pays(
    make: Callable[[], Executor],
) -> None:
    async with await opened() as queue:
        job_id = (await queue.enqueue("q", b"fine", max_attempts=1)).id
        executor = make()
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            await asyncio.wait_for(run_worker(queue, "q", work, executor=executor), REAL_SECONDS)
        found = await queue.get_job(job_id)
        assert found is not None
        assert (found.status, found.attempts, found.suspect) == (JobStatus.PENDING, 0, False)


async def test_threads_that_cannot_start_fail_no_job() -> None:
    """`BrokenThreadPool`: its initializer raises, until it does not any more."""
    broken = 2

    def initialize() -> None:
        nonlocal broken
        broken -= 1
        if broken >= 0:
            raise OSError("no licence")

    async with await opened() as queue:
        job_id = (await queue.enqueue("q", b"fine", max_attempts=1)).id
        async with working(
            queue, work, executor=lambda: ThreadPoolExecutor(1, initializer=initialize)
        ):
            (done,) = await finish(queue, job_id)
        assert done is not None
        assert (done.status, done.attempts) == (JobStatus.DONE, 1)


async def test_processes_that_cannot_start_fail_no_job(tmp_path: Path) -> None:
    healthy = tmp_path / "healthy"

    def make() -> Executor:
        return ProcessPoolExecutor(
            1, mp_context=PROCESSES, initializer=end_unless, initargs=(healthy,)
        )

    async with await opened() as queue:
        added = await queue.enqueue_batch([EnqueueRequest("q", b"fine", max_attempts=1)] * 2)
        async with working(queue, work, executor=make):
            async with asyncio.timeout(REAL_SECONDS):
                # Until a job has become a suspect, and waits for a pool that works.
                while not (history := await queue.attempt_history(added[0].id)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert not history[0].counted
            healthy.touch()
            jobs = await finish(queue, *[result.id for result in added])
        for done in jobs:
            assert done is not None
            assert (done.status, done.attempts) == (JobStatus.DONE, 1)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"does not unpickle", "ApiError: 500: upstream"),
        (b"does not pickle", "Unsendable: no"),
        (b"exit", "SystemExit: 3"),
        (b"unreadable result", "Unpickling|pickle"),
    ],
)
async def test_what_cannot_cross_fails_its_own_job_only(payload: bytes, error: str) -> None:
    made = 0

    def make() -> Executor:
        nonlocal made
        made += 1
        return ProcessPoolExecutor(1, mp_context=PROCESSES)

    async with await opened() as queue:
        bad = (await queue.enqueue("q", payload, max_attempts=1)).id
        fine = (await queue.enqueue("q", b"fine")).id
        async with working(queue, work, concurrency=2, executor=make):
            failed, done = await finish(queue, bad, fine)
    assert failed is not None
    assert done is not None
    assert (failed.status, done.status) == (JobStatus.DEAD, JobStatus.DONE)
    assert failed.last_error is not None
    assert any(part in failed.last_error for part in error.split("|"))
    assert made == 1


async def test_a_handler_that_cannot_be_loaded_there_fails_its_job() -> None:
    async with await opened() as queue:
        bad = (await queue.enqueue("q", b"", max_attempts=1)).id
        async with working(queue, Unloadable(), executor=two):
            (failed,) = await finish(queue, bad)
    assert failed is not None
    assert failed.last_error is not None
    assert "no module of that name here" in failed.last_error


@pytest.mark.parametrize("form", ["ready-made", "factory"])
async def test_a_handler_that_cannot_be_sent_is_refused_at_the_start(form: str) -> None:
    class Bound:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def process(self, job: JobRecord, lease: LeaseHandle) -> None:
            raise AssertionError

    def local(job: JobRecord, lease: LeaseHandle) -> None:
        raise AssertionError

    async with await opened() as queue:
        with two() as pool:
            executor = pool if form == "ready-made" else two
            for handler, name in (
                (lambda job, lease: None, "<lambda>"),
                (local, "local"),
                (Bound(), "Bound"),
            ):
                with pytest.raises(InvalidArgument, match=name) as refused:
                    await run_worker(queue, "q", handler, executor=executor)
                assert "cannot be sent to another process" in str(refused.value)


async def test_an_executor_that_cannot_be_made_anew_at_once_fails_no_job() -> None:
    tries = 0

    def make() -> Executor:
        nonlocal tries
        tries += 1
        if tries in (2, 3):
            raise OSError("too many open files")
        return ProcessPoolExecutor(1, mp_context=PROCESSES)

    async with await opened() as queue:
        killer = (await queue.enqueue("q", b"killed", max_attempts=1)).id
        fine = (await queue.enqueue("q", b"fine", max_attempts=1)).id
        async with working(queue, work, concurrency=2, executor=make):
            dead, done = await finish(queue, killer, fine)
        tries = 1
        with pytest.raises(OSError, match="too many"):
            await run_worker(queue, "q", work, executor=make)
    assert dead is not None
    assert done is not None
    assert (dead.status, done.status, done.attempts) == (JobStatus.DEAD, JobStatus.DONE, 1)


async def test_what_makes_no_executor_is_refused() -> None:
    async with await opened() as queue:
        with pytest.raises(InvalidArgumentType, match="returned 4"):
            await run_worker(queue, "q", work, executor=lambda: 4)  # type: ignore[arg-type, return-value]
        with pytest.raises(InvalidArgumentType, match="a function that makes one"):
            await run_worker(queue, "q", work, executor=4)  # type: ignore[arg-type]


class Shaky(Executor):
    """Of another library: it loses the first calls without being broken."""

    def __init__(self, lost: int) -> None:
        self.lost = lost
        self.closed = False

    def submit(self, fn: Callable[..., object], /, *args: object, **kwargs: object) -> Future:  # type: ignore[type-arg, override]
        future: Future[object] = Future()
        if self.lost and "probe" not in fn.__name__:
            self.lost -= 1
            future.set_exception(ConnectionError("the scheduler is gone"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        del wait, cancel_futures
        self.closed = True


@pytest.mark.parametrize(("lost", "attempts"), [(1, 1), (2, 2)])
async def test_what_an_executor_itself_raises_is_not_the_functions_failure(
    lost: int, attempts: int
) -> None:
    made: list[Shaky] = []

    def handle(job: JobRecord, lease: LeaseHandle) -> None:
        pass

    def make() -> Executor:
        made.append(Shaky(lost))
        return made[-1]

    async with await opened() as queue:
        job_id = (await queue.enqueue("q", b"fine")).id
        async with working(queue, handle, executor=make):
            (done,) = await finish(queue, job_id)
        assert done is not None
        # The first time it may have been anybody's fault, the second time it ran alone.
        assert (done.status, done.attempts) == (JobStatus.DONE, attempts)
    assert [executor.closed for executor in made] == [True]


# -- typed jobs ---------------------------------------------------------------------------------


async def catching(
    ctx: JobContext[None], call_next: Callable[[JobContext[None]], Awaitable[object]]
) -> object:
    """A middleware that makes something of every exception."""
    try:
        return await call_next(ctx)
    except Exception as error:
        raise ValueError("hidden") from error


async def test_the_functions_of_typed_jobs_follow_the_same_rule() -> None:
    async with await opened() as queue:
        runner = JobRunner(queue, jobs=[worked], executor=two, concurrency=2, middleware=[catching])
        async with runner, asyncio.timeout(REAL_SECONDS):
            killed = await runner.submit(worked, "killed")
            unreadable = await runner.submit(worked, "does not unpickle")
            fine = [await runner.submit(worked, str(number)) for number in range(10)]
            assert [await handle for handle in fine] == [str(number) for number in range(10)]
            with pytest.raises(JobFailed, match="while it ran alone"):
                await killed
            with pytest.raises(JobFailed, match="hidden"):
                await unreadable
        for handle in fine:
            record = await queue.get_job(handle.id)
            assert record is None or record.attempts == 1


async def test_a_typed_job_whose_function_cannot_be_sent_is_refused() -> None:
    @job(name="local")
    def local(ctx: JobContext[None]) -> None:
        raise AssertionError

    async with await opened() as queue:
        with pytest.raises(InvalidArgument, match="<job 'local'> cannot be sent"):
            await JobRunner(queue, jobs=[local], executor=two).run()
        with two() as pool, pytest.raises(InvalidArgument, match="<job 'local'> cannot be sent"):
            JobRunner(queue, jobs=[local], executor=pool)


# -- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "number"),
    [
        ("factory", signal.SIGTERM),
        ("instance", signal.SIGINT),
        pytest.param("factory", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("instance", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
async def test_a_signal_to_the_process_group_drains(
    tmp_path: Path, form: str, number: signal.Signals
) -> None:
    url = str(tmp_path / "store")
    config = QueueConfig(max_attempts=1, keep_done_jobs=3600)
    async with Queue.open(url, default_config=config) as queue:
        added = await queue.enqueue_batch([EnqueueRequest("q", b"")] * (RUNNING + 3))
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), url, form, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(REAL_SECONDS):
            for _ in range(RUNNING):
                assert await child.stdout.readline() == b"running\n"
            os.killpg(child.pid, number)
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    async with Queue.open(url, default_config=config) as queue:
        jobs = [await queue.get_job(result.id) for result in added]
    states = [(found.status.value, found.attempts, found.suspect) for found in jobs if found]
    assert states == sorted(states), "those that ran were the first"
    assert set(states) <= {("done", 1, False), ("pending", 0, False)}
    # The first may have ended, and the next one begun, before the other one was seen to run.
    assert states.count(("done", 1, False)) >= RUNNING
