"""Processes of a service that die, hang or are cut off while they run jobs.

Whatever ends, the jobs of the others go on, run once, and spend nothing.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from taquba import AttemptOutcome, EnqueueRequest, Queue, QueueConfig, Service, Store
from taquba._line.address import socket_path
from taquba._line.frames import VERSION, frame
from taquba._objects.location import StoreLocation
from tests.service import support
from tests.service.support import PATIENCE, until

CHILD = Path(__file__).with_name("working_child.py")

NO_WAIT = QueueConfig(retry_backoff_base=0, retry_jitter=0, keep_done_jobs=600)


class Child(support.Child):
    """A process that works; see `working_child.py`."""

    def started(self) -> list[str]:
        return [report.split()[0] for report in self.reports("started")]

    @property
    def takes_part(self) -> bool:
        return bool(self.log.read_text())


class Site(support.Site[Child]):
    """A store and the processes that work on it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CHILD, Child)

    async def start(self, role: str, *, concurrency: int = 10, lease: float = 30) -> Child:
        return await self.begin(role, concurrency, lease)

    def runs(self) -> Counter[str]:
        """How often the handler of each job was started, in any process."""
        return Counter(job_id for child in self._all for job_id in child.started())

    def ended(self) -> set[str]:
        return {report.split()[0] for child in self._all for report in child.reports("ended")}


@pytest.fixture
async def site(short_path: Path) -> AsyncIterator[Site]:
    found = Site(short_path)
    yield found
    await found.close()


@pytest.fixture
async def owner(site: Site) -> AsyncIterator[Queue]:
    """The owner is this process, which runs nothing itself."""
    async with await Queue.open(site.url, **OWNER) as queue:
        yield queue


@pytest.fixture
async def producer(site: Site) -> AsyncIterator[Service]:
    async with Service(site.url, role="producer", fsync=False) as service:
        yield service


OWNER: dict[str, Any] = {
    "inbox": True,
    "producer_socket": True,
    "fsync": False,
    "default_config": NO_WAIT,
    "reaper_interval": 0.2,
}


async def enqueue(store: Store, payloads: Iterable[str]) -> list[str]:
    requests = [EnqueueRequest("q", payload.encode()) for payload in payloads]
    return [result.id for result in await store.enqueue_batch(requests)]


async def until_done(store: Store, jobs: Iterable[str]) -> None:
    for job in jobs:
        assert (await store.wait_for_completion(job, PATIENCE)).completed


async def outcomes(store: Store, job: str) -> list[tuple[AttemptOutcome, bool]]:
    history = await store.attempt_history(job)
    return [(attempt.outcome, attempt.counted) for attempt in history]


LOST = (AttemptOutcome.INTERRUPTED, False)
DONE = (AttemptOutcome.COMPLETED, True)


async def test_the_jobs_of_a_member_that_is_killed_run_again(owner: Queue, site: Site) -> None:
    gate = site.url.with_name("gate")
    first = await site.start("worker")
    jobs = await enqueue(owner, [f"until {gate}"] * 5)
    await until(lambda: len(first.started()) == 5)
    second = await site.start("worker")
    await first.kill()
    gate.touch()
    await until_done(owner, jobs)
    assert sorted(second.started()) == sorted(jobs)
    for job in jobs:
        assert await outcomes(owner, job) == [LOST, DONE]


async def test_a_member_that_hangs_for_longer_than_its_lease(owner: Queue, site: Site) -> None:
    gate = site.url.with_name("gate")
    first = await site.start("worker", lease=0.5)
    (job,) = await enqueue(owner, [f"until {gate}"])
    await until(lambda: first.started() == [job])
    first.process.send_signal(signal.SIGSTOP)
    second = await site.start("worker")
    await until(lambda: second.started() == [job])
    first.process.send_signal(signal.SIGCONT)
    gate.touch()
    await until_done(owner, [job])
    # What the first says of it later changes nothing, and it works on.
    await until(lambda: [*first.reports("ended"), *second.reports("ended")] != [])
    assert await second.stop() == 0
    (other,) = await enqueue(owner, ["sleep 0"])
    await until_done(owner, [other])
    assert other in first.started()
    assert await outcomes(owner, job) == [(AttemptOutcome.LEASE_EXPIRED, True), DONE]


async def test_a_member_whose_event_loop_is_blocked(owner: Queue, site: Site) -> None:
    first = await site.start("worker", lease=0.5)
    (job,) = await enqueue(owner, ["block 5"])
    await until(lambda: first.started() == [job])
    second = await site.start("worker")
    await until(lambda: job in second.started())
    assert first.reports("ended") == []
    await until_done(owner, [job])
    assert (await owner.stats("q")).done == 1
    assert await outcomes(owner, job) == [(AttemptOutcome.LEASE_EXPIRED, True), DONE]


async def test_jobs_outlive_an_owner_that_is_killed(site: Site, producer: Service) -> None:
    first = await site.start("auto", concurrency=1)
    await until(lambda: first.is_owner)
    gate = site.url.with_name("gate")
    others = [await site.start("worker"), await site.start("auto")]
    jobs = await enqueue(producer, [f"until {gate}"] * 21)
    await until(lambda: site.runs().total() == 21)
    of_owner = first.started()
    # A claim that no commit has followed may be lost with the owner; then its job goes on as well.
    await first.kill()
    await until(lambda: others[1].is_owner)
    quick = await enqueue(producer, ["sleep 0"])
    gate.touch()
    await until_done(producer, [*jobs, *quick])
    assert site.runs() == {job: 2 if job in of_owner else 1 for job in [*jobs, *quick]}
    for job in set(jobs) - set(of_owner):
        assert (await producer.stats("q")).dead == 0
        record = await producer.get_job(job)
        assert record is None or record.attempts == 1
    assert [child.process.returncode for child in others] == [None, None]


@pytest.mark.parametrize("seconds", [1.5, 2.5])
async def test_no_job_pays_for_an_owner_that_hangs(
    site: Site, producer: Service, seconds: float
) -> None:
    hangs = await site.start("auto", concurrency=1)
    await until(lambda: hangs.is_owner)
    gate = site.url.with_name("gate")
    works = await site.start("worker", lease=1.5)
    jobs = await enqueue(producer, [f"until {gate}"] * 6)
    await until(lambda: site.runs().total() == 6)
    hangs.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    hangs.process.send_signal(signal.SIGCONT)
    # What lost its job would run again now.
    assert await producer.kv_get("nothing") is None
    await asyncio.sleep(0.5)
    gate.touch()
    await until_done(producer, jobs)
    assert site.runs() == dict.fromkeys(jobs, 1)
    for job in works.started():
        assert await outcomes(producer, job) == [DONE]


async def test_an_owner_and_a_member_are_killed_together(site: Site, producer: Service) -> None:
    first = await site.start("auto", concurrency=1)
    await until(lambda: first.is_owner)
    gate = site.url.with_name("gate")
    dies, lives = await site.start("worker"), await site.start("auto")
    jobs = await enqueue(producer, [f"until {gate}"] * 21)
    await until(lambda: site.runs().total() == 21)
    survive = set(lives.started())
    first.process.kill()
    dies.process.kill()
    await until(lambda: lives.is_owner)
    gate.touch()
    await until_done(producer, jobs)
    assert site.runs() == {job: 1 if job in survive else 2 for job in jobs}
    stats = await producer.stats("q")
    assert (stats.done, stats.dead, stats.pending) == (21, 0, 0)


async def test_what_a_fenced_owner_runs_goes_on(site: Site, producer: Service) -> None:
    first = await site.start("auto")
    await until(lambda: first.is_owner)
    gate = site.url.with_name("gate")
    jobs = await enqueue(producer, [f"until {gate}"] * 5)
    await until(lambda: len(first.started()) == 5)
    async with await Queue.open(site.url, take_over=True, **OWNER) as successor:
        await until(lambda: not first.is_owner)
        gate.touch()
        await until_done(successor, jobs)
        assert site.runs() == dict.fromkeys(jobs, 1)


async def test_all_members_are_restarted_under_load(site: Site, producer: Service) -> None:
    members = [await site.start("auto") for _ in range(3)]
    await until(lambda: any(member.is_owner for member in members))
    jobs: list[str] = []
    enough = asyncio.Event()

    async def produce() -> None:
        while not enough.is_set():
            jobs.append((await producer.enqueue("q", b"sleep 0.05")).id)
            assert await producer.kv_get("nothing") is None
            await asyncio.sleep(0.005)

    producing = asyncio.create_task(produce())
    for number in range(3):
        sent = len(jobs)
        await until(lambda sent=sent: len(jobs) > sent + 20 or producing.done())  # type: ignore[misc]
        replacement = await site.start("auto")
        await until(lambda one=members[number]: one.takes_part)  # type: ignore[misc]
        assert await members[number].stop() == 0
        members[number] = replacement
    await until(lambda: any(member.is_owner for member in members))
    enough.set()
    await producing
    await until_done(producer, jobs)
    assert site.runs() == dict.fromkeys(jobs, 1)


async def test_a_member_of_another_version_is_refused(
    owner: Queue, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    path = await asyncio.to_thread(socket_path, StoreLocation.parse(site.url))
    worker = await site.start("worker")
    reader, writer = await asyncio.open_unix_connection(path)
    other = bytearray(frame(1, "join", b"", b""))
    other[4] = VERSION + 1
    writer.write(bytes(other))
    assert await reader.read() == b""
    writer.close()
    assert f"version {VERSION + 1}" in caplog.text
    (job,) = await enqueue(owner, ["sleep 0"])
    await until_done(owner, [job])
    assert worker.started() == [job]


@pytest.mark.parametrize("ms", [0, 10, 100])
async def test_a_job_that_kills_every_process_that_runs_it(
    owner: Queue, site: Site, ms: int
) -> None:
    """It is given up, and no job pays that shared a process with it."""
    alive = [await site.start("worker") for _ in range(2)]
    (killer,) = await enqueue(owner, [f"die {ms}"])
    jobs = await enqueue(owner, ["sleep 0.02"] * 60)
    async with asyncio.timeout(PATIENCE):
        while (await owner.stats("q")).dead == 0:
            await asyncio.sleep(0.02)
            dead = [child for child in alive if child.process.returncode is not None]
            for child in dead:
                alive.remove(child)
                alive.append(await site.start("worker"))
    await until_done(owner, jobs)
    stats = await owner.stats("q")
    assert (stats.done, stats.dead) == (60, 1)
    job = await owner.get_job(killer)
    assert job is not None
    assert job.attempts == job.max_attempts
    counted = [attempt for attempt in await owner.attempt_history(killer) if attempt.counted]
    assert len(counted) == job.max_attempts
    for innocent in jobs:
        assert set(await outcomes(owner, innocent)) <= {LOST, DONE}


async def test_a_member_that_hangs_is_handed_nothing(owner: Queue, site: Site) -> None:
    hangs = await site.start("worker")
    (first,) = await enqueue(owner, ["sleep 0"])
    await until_done(owner, [first])
    hangs.process.send_signal(signal.SIGSTOP)
    works = await site.start("worker", concurrency=1)
    jobs = await enqueue(owner, ["sleep 0.01"] * 30)
    await until_done(owner, jobs)
    assert sorted(works.started()) == sorted(jobs)
    for job in jobs:
        assert await outcomes(owner, job) in ([DONE], [LOST, DONE])
        record = await owner.get_job(job)
        assert record is not None
        assert (record.attempts, record.suspect) == (1, False)
    hangs.process.send_signal(signal.SIGCONT)
    assert await works.stop() == 0
    (last,) = await enqueue(owner, ["sleep 0"])
    await until_done(owner, [last])
    assert hangs.started() == [first, last]


async def test_a_suspect_runs_alone_in_its_process_and_the_others_go_on(
    owner: Queue, site: Site
) -> None:
    gate, other_gate = site.url.with_name("gate"), site.url.with_name("other-gate")
    dies = await site.start("worker", concurrency=1)
    (suspect,) = await enqueue(owner, [f"until {gate}"])
    await until(lambda: dies.started() == [suspect])
    busy = await site.start("worker")
    (long,) = await enqueue(owner, [f"until {other_gate}"])
    await until(lambda: busy.started() == [long])
    await dies.kill()
    alone = await site.start("worker")
    await until(lambda: alone.started() == [suspect])
    quick = await enqueue(owner, ["sleep 0"] * 20)
    await until_done(owner, quick)
    assert sorted(busy.started()) == sorted([long, *quick])
    gate.touch()
    other_gate.touch()
    await until_done(owner, [suspect, long])
    assert site.runs()[long] == 1


@pytest.mark.parametrize("ms", [0, 50])
async def test_a_killer_among_processes_that_all_may_own(
    site: Site, producer: Service, ms: int
) -> None:
    alive = [await site.start("auto") for _ in range(3)]
    await until(lambda: any(child.is_owner for child in alive))

    async def replace_the_dead() -> None:
        while True:
            for child in [one for one in alive if one.process.returncode is not None]:
                alive.remove(child)
                alive.append(await site.start("auto"))
            await asyncio.sleep(0.02)

    replacing = asyncio.create_task(replace_the_dead())
    jobs = await enqueue(producer, ["sleep 0.01"] * 40)
    (killer,) = await enqueue(producer, [f"die {ms}"])
    jobs += await enqueue(producer, ["sleep 0.01"] * 40)
    async with asyncio.timeout(PATIENCE):
        while (await producer.stats("q")).dead == 0:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    await until_done(producer, jobs)
    stats = await producer.stats("q")
    assert (stats.done, stats.dead) == (80, 1)
    for innocent in jobs:
        assert set(await outcomes(producer, innocent)) <= {LOST, DONE}
    counted = [one for one in await producer.attempt_history(killer) if one.counted]
    assert len(counted) == 3
    replacing.cancel()
