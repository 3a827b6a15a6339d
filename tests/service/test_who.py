"""Who runs what: members, the workers of jobs, and what follows from them when an owner ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from taquba import (
    AttemptOutcome,
    JobRecord,
    JobStatus,
    LeaseHandle,
    Member,
    Queue,
    Service,
    Store,
    run_worker,
)
from taquba._interface.claim import lease_of
from taquba._queue import claims
from taquba._queue.owner import owner_of
from taquba.extending import member_id
from tests.service.test_deaths import OWNER, PATIENCE, Child, Site, enqueue, until, until_done

HOLDER = Path(__file__).with_name("member_child.py")
FORKED = Path(__file__).with_name("forked_child.py")


@pytest.fixture
async def place(short_path: Path) -> AsyncIterator[Site]:
    found = Site(short_path)
    yield found
    await found.close()


async def member_of(store: Store, pid: int) -> Member:
    """A process that takes part, once it does."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for member in await store.members():
                if member.pid == pid:
                    return member
            await asyncio.sleep(0.01)


async def record(store: Store, job_id: str) -> JobRecord:
    job = await store.get_job(job_id)
    assert job is not None
    return job


# -- who does what ------------------------------------------------------------------------------


async def test_members_say_what_they_run_and_jobs_who_ran_them(place: Site) -> None:
    gate = place.url.with_name("gate")
    async with (
        await Queue.open(place.url, **OWNER) as owner,
        Service(place.url, role="producer", fsync=False) as producer,
    ):
        one, other = [await place.start("worker", concurrency=3) for _ in range(2)]
        jobs = await enqueue(producer, [f"until {gate}"] * 6)
        await until(lambda: place.runs().total() == 6)
        for child in (one, other):
            member = await member_of(owner, child.process.pid)
            assert (member.host, member.role) == (socket.gethostname(), "worker")
            assert member.places == {"q": 3}
            assert sorted(job.job_id for job in member.running) == sorted(child.started())
            for job in member.running:
                found = await record(producer, job.job_id)
                assert (found.worker, found.claimed_at) == (member.id, job.since)
        members = await producer.members()
        assert members == await owner.members()
        assert {member_id(owner), member_id(producer)} < {member.id for member in members}
        assert member_id(owner) == members[0].id
        assert [member.role for member in members][:1] == ["owner"]
        assert sorted(member.role for member in members[1:]) == ["producer", "worker", "worker"]
        assert len({member.id for member in members}) == 4
        worker = (await member_of(owner, one.process.pid)).id
        ran_there = one.started()
        await one.kill()
        gate.touch()
        await until_done(owner, jobs)
        for job_id in jobs:
            found = await record(owner, job_id)
            history = await owner.attempt_history(job_id)
            assert history[-1].worker == found.worker != worker
            assert [attempt.worker for attempt in history[:-1]] == [worker] * (job_id in ran_there)
        assert one.process.pid not in [member.pid for member in await owner.members()]


async def test_the_owner_of_a_service_lists_itself_with_what_it_runs(place: Site) -> None:
    gate = place.url.with_name("gate")
    async with Service(place.url, role="producer", fsync=False) as producer:
        first = await place.start("auto", concurrency=2)
        await until(lambda: first.is_owner)
        jobs = await enqueue(producer, [f"until {gate}"] * 2)
        await until(lambda: place.runs().total() == 2)
        owner = await member_of(producer, first.process.pid)
        assert (owner.role, owner.places) == ("owner", {"q": 2})
        assert [job.job_id for job in owner.running] == jobs
        assert {(await record(producer, job)).worker for job in jobs} == {owner.id}
        # Fenced, it goes on with its jobs under the same name.
        async with await Queue.open(place.url, take_over=True, **OWNER) as successor:
            fenced = await member_of(successor, first.process.pid)
            assert (fenced.id, fenced.role) == (owner.id, "worker")
            gate.touch()
            await until_done(successor, jobs)


async def test_places_are_those_of_the_loops_that_take_jobs(short_path: Path) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        del job, lease

    async with await Queue.open(short_path / "s", fsync=False) as queue:
        stop = asyncio.Event()
        loops = [
            asyncio.create_task(
                run_worker(queue, name, handle, concurrency=concurrency, shutdown=stop)
            )
            for name, concurrency in (("a", 2), ("a", 3), ("b", 1))
        ]
        await asyncio.sleep(0)
        (owner,) = await queue.members()
        assert owner.places == {"a": 5, "b": 1}
        stop.set()
        await asyncio.gather(*loops)
        (owner,) = await queue.members()
        assert owner.places == {}


async def test_a_service_that_was_made_before_a_fork_has_a_name_in_each_process(
    short_path: Path,
) -> None:
    async with await Queue.open(short_path / "s", **OWNER) as queue:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(FORKED), str(short_path / "s")), stdin=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(PATIENCE):
                while len(await queue.members()) < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            forked = (await queue.members())[1:]
            assert {member.role for member in forked} == {"producer"}
            assert len({member.pid for member in forked}) == 2
            assert process.pid in [member.pid for member in forked]
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


# -- what a new owner makes of it ----------------------------------------------------------------


@contextlib.asynccontextmanager
async def holder(url: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process that holds a claim; it has it when this returns."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HOLDER), str(url), "1"), stdin=pipe, stdout=pipe
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def claim_for(queue: Queue, worker: str) -> str:
    """Claim a job for a process, and lose it before it is handed over."""
    owner = owner_of(queue)
    (claim,) = await claims.claim_batch(owner, owner.queue("q"), 1, 30_000, None, worker)
    assert lease_of(claim).job.worker == worker
    await queue.kv_put("durable", b"")
    return claim.id


async def until_pending(store: Store, job_id: str) -> JobRecord:
    async with asyncio.timeout(PATIENCE):
        while (job := await record(store, job_id)).status is not JobStatus.PENDING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return job


async def test_a_job_that_was_lost_on_its_way_to_a_living_process_is_no_suspect(
    short_path: Path,
) -> None:
    """Its process has connected, and does not name it; another one has not connected yet."""
    url = short_path / "s"
    first = await Queue.open(url, **OWNER)
    await enqueue(first, [""] * 3)
    async with holder(url) as lives, holder(url) as stopped:
        worker = (await member_of(first, lives.pid)).id
        held, not_heard_of = [
            (await member_of(first, process.pid)).running[0].job_id for process in (lives, stopped)
        ]
        lost = await claim_for(first, worker)
        stopped.send_signal(signal.SIGSTOP)
        async with await Queue.open(url, take_over=True, **OWNER) as second:
            await first.close()
            job = await until_pending(second, lost)
            # The others of that process go on, and those of the other one are waited for.
            assert (await record(second, held)).status is JobStatus.CLAIMED
            assert (await record(second, not_heard_of)).status is JobStatus.CLAIMED
            assert (job.suspect, job.attempts, job.worker) == (False, 0, worker)
            (attempt,) = await second.attempt_history(lost)
            assert (attempt.outcome, attempt.counted, attempt.worker) == (
                AttemptOutcome.INTERRUPTED,
                False,
                worker,
            )
            assert "lost on its way" in (attempt.error or "")


async def test_the_jobs_of_a_dead_process_do_not_wait_for_the_others(short_path: Path) -> None:
    url = short_path / "s"
    ended = await asyncio.to_thread(subprocess.Popen, ["true"])
    await asyncio.to_thread(ended.wait)
    first = await Queue.open(url, **OWNER)
    await enqueue(first, [""] * 3)
    async with holder(url) as dies, holder(url) as stopped:
        lost, not_heard_of = [
            (await member_of(first, process.pid)).running[0].job_id for process in (dies, stopped)
        ]
        # As if it had died together with the owner, which has not seen it.
        unseen = await claim_for(first, f"{socket.gethostname()}:{ended.pid}:0a0b0c0d")
        for process in (dies, stopped):
            process.send_signal(signal.SIGSTOP)
        async with await Queue.open(url, take_over=True, **OWNER) as second:
            await first.close()
            suspect = await record(second, unseen)
            assert (suspect.status, suspect.suspect) == (JobStatus.PENDING, True)
            assert (await record(second, lost)).status is JobStatus.CLAIMED
            dies.kill()
            await dies.wait()
            job = await until_pending(second, lost)
            assert (job.suspect, job.attempts) == (True, 0)
            assert (await record(second, not_heard_of)).status is JobStatus.CLAIMED


# -- the command line ---------------------------------------------------------------------------


async def taquba(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "taquba", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, out.decode(), err.decode()


async def started(child: Child, count: int) -> None:
    await until(lambda: len(child.started()) == count)


async def test_the_command_line_lists_members(place: Site) -> None:
    gate = place.url.with_name("gate")
    async with await Queue.open(place.url, **OWNER) as owner:
        child = await place.start("worker", concurrency=2)
        jobs = await enqueue(owner, [f"until {gate}"] * 2)
        await started(child, 2)
        code, out, err = await taquba("members", str(place.url), "--json")
        assert (code, err) == (0, "")
        first, second = map(json.loads, out.splitlines())
        assert (first["role"], first["pid"], first["running"]) == ("owner", os.getpid(), [])
        assert (second["role"], second["pid"], second["places"]) == (
            "worker",
            child.process.pid,
            {"q": 2},
        )
        assert [job["id"] for job in second["running"]] == jobs
        _, out, _ = await taquba("members", str(place.url))
        heads, *rows = out.splitlines()
        assert heads.split() == ["HOST", "PID", "ROLE", "SINCE", "VERSION", "PLACES", "RUNNING"]
        assert [row.split()[1] for row in rows] == [str(os.getpid()), str(child.process.pid)]
        _, out, _ = await taquba("members", str(place.url), "--jobs")
        assert [row.split()[0] for row in out.splitlines()[1:]] == jobs
        gate.touch()
        await until_done(owner, jobs)


async def test_the_command_line_says_that_no_owner_answers(short_path: Path) -> None:
    code, out, err = await taquba("members", str(short_path / "nothing"))
    assert (code, out) == (1, "")
    assert "no process of this machine owns" in err
    assert not (short_path / "nothing").exists()
