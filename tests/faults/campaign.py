"""A bucket that answers one request in a hundred with what is not so, under everything at once.

Producers, an owner that is opened anew every few seconds, readers, candidates of an election, typed
jobs with large results, workflows with large memos, objects, services that own a store in turn, and
batches whose process is killed. What was acknowledged is written down, and compared with the stores
at the end:

    python -m tests.faults.campaign --minutes 60 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from taquba import (
    InboxConfig,
    Producer,
    Queue,
    QueueReader,
    StoreError,
    TaqubaError,
    run_worker,
)
from taquba._engine.read_only import Mode
from taquba._objects.candidates import stand_for
from taquba._objects.location import StoreLocation
from taquba_jobs import JobContext, JobRunner, job
from taquba_workflow import RunSpec, RunState, Step, StepOutcome, Succeed, WorkflowRuntime
from tests.faults.campaign_batches import Batches
from tests.faults.campaign_members import Members
from tests.faults.campaign_report import Report, leaves, log, patiently
from tests.faults.campaign_work import AT_ONCE, LIMIT, QUEUE, check_work, handler, payload_of
from tests.servers.faulty_s3 import FaultyS3, Odd

URL: Final = "s3://bucket/prefix"
SERVICE_URL: Final = "s3://bucket/service"
BULK_URL: Final = "s3://bucket/bulk"
URLS: Final = (URL, SERVICE_URL)
LARGE: Final = 100_000
"""Above what jobs and workflows keep inside a row."""
PARTS: Final = 12_000_000
"""Of an object that is written in parts."""

ENGINE: Final = frozenset(("wal", "manifest", "compacted", "compactions", "gc"))
"""Folders whose requests the storage engine makes."""

REFUSALS: Final = (
    Odd(404, "NoSuchKey"),
    Odd(404, "NoSuchBucket"),
    Odd(409, "ConditionalRequestConflict"),
    Odd(403, "AccessDenied"),
    Odd(400, "ExpiredToken"),
    Odd(500, "InternalError"),
    Odd(503, "SlowDown"),
    Odd(0),
)


class OddBucket:
    """Says which requests are answered oddly: `share` of them, by chance.

    Attributes:
        struck: How many were, by what was asked and answered.
        last: The last ones.
        share: From 0 to 1.
    """

    def __init__(self, seed: int, share: float, *, engine: bool) -> None:
        self.struck: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=100)
        self.share = share
        self._chance = random.Random(seed)
        self._engine = engine
        self._lock = threading.Lock()

    def __call__(self, method: str, key: str, conditional: bool) -> Odd | None:
        if not self._engine and not ENGINE.isdisjoint(key.split("/")):
            return None
        with self._lock:
            if self._chance.random() >= self.share:
                return None
            odd = self._chance.choice(REFUSALS)
            carried_out = method != "GET" and self._chance.random() < 0.5
            self.struck[f"{method}{' if' if conditional else ''} {odd.status} {odd.code}"] += 1
            self.last.append(f"{key} {method} {odd.status} {odd.code} {carried_out}")
        return Odd(odd.status, odd.code, carried_out)


@job(name="large")
async def large(ctx: JobContext[None], fill: int) -> bytes:
    return bytes([fill]) * LARGE


class Remembering:
    """A step that remembers something large, and something small."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._put: dict[str, bytes] = {}

    async def run_step(self, step: Step) -> StepOutcome:
        before = await step.memo.get("large")
        known = self._put.get(step.run_id)
        if before != known and known is not None:
            self._report.wrong.append(f"memo of {step.run_id}")
        if before is None:
            value = step.payload * LARGE
            await step.memo.put("large", value)
            self._put[step.run_id] = value
        return Succeed(step.payload)


class Campaign:
    """Everything that goes on at the same time, on one store."""

    def __init__(
        self, s3: FaultyS3, odd: OddBucket, folder: Path, seed: int, seconds: float
    ) -> None:
        self.report = Report()
        self._s3 = s3
        self._odd = odd
        self._seed = seed
        self._until = time.monotonic() + seconds
        self._handler = handler(self.report)
        self._remembering = Remembering(self.report)
        self._owner: Queue | None = None
        self._members = Members(SERVICE_URL, self.report, seed, self._until)
        self._batches = Batches(BULK_URL, folder, self.report, seed, self._until)

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self._until

    async def run(self) -> Report:
        for url in URLS:
            async with Queue.open(url, inbox=True):
                pass
        self._s3.odd = self._odd
        async with asyncio.TaskGroup() as group:
            group.create_task(self._own())
            group.create_task(self._read())
            group.create_task(self._keep_objects())
            for number in range(3):
                group.create_task(self._produce(number))
            for number in range(2):
                group.create_task(self._stand(number))
                group.create_task(self._members.take_part(number))
            group.create_task(self._batches.run())
        self.report.requests = len(self._s3.requests)
        self.report.struck = self._odd.struck.total()
        self._s3.odd = None
        await self._batches.finish()
        await check_work(self.report, *URLS)
        return self.report

    # -- producers -------------------------------------------------------------------------------

    async def _produce(self, number: int) -> None:
        chance = random.Random(f"{self._seed} producer {number}")
        while self._goes_on:
            try:
                async with Producer.open(URL) as producer:
                    for _ in range(chance.randint(5, 60)):
                        payload = payload_of(chance)
                        await self.report.acknowledge(producer.enqueue("w", payload), payload)
                        await asyncio.sleep(chance.uniform(0, 0.02))
            except StoreError as error:
                self.report.refuse(error)

    # -- the owner -------------------------------------------------------------------------------

    async def _own(self) -> None:
        """Open, work for a moment, and close or be fenced by the next."""
        chance = random.Random(f"{self._seed} owner")
        left: list[Queue] = []
        while self._goes_on:
            queue = await self._open()
            if queue is None:
                continue
            for former in left:
                with contextlib.suppress(TaqubaError):
                    await former.close()
            left.clear()
            self._owner = queue
            stays_open = chance.random() < 0.3
            try:
                await self._work(queue, chance.uniform(0.5, 3), stays_open=stays_open)
            except* TaqubaError as errors:
                self.report.stops += [str(error)[:200] for error in leaves(errors)]
            self._owner = None
            if stays_open:
                # The next one fences it.
                left.append(queue)
            else:
                with contextlib.suppress(TaqubaError):
                    await queue.close()
        for former in left:
            with contextlib.suppress(TaqubaError):
                await former.close()

    async def _open(self) -> Queue | None:
        self.report.openings += 1
        self._odd.last.clear()
        asked = len(self._s3.requests)
        try:
            return await Queue.open(
                URL,
                inbox=InboxConfig(poll_interval=0.05),
                payload_offload_threshold=LIMIT,
                default_config=QUEUE,
                take_over=True,
            )
        except TaqubaError as error:
            self.report.failed_opening(error)
            log.error("%d requests: %s", len(self._s3.requests) - asked, "; ".join(self._odd.last))
            return None

    async def _work(self, queue: Queue, seconds: float, *, stays_open: bool) -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            worker = group.create_task(
                run_worker(queue, "w", self._handler, concurrency=AT_ONCE, shutdown=stop)
            )
            tasks = [
                group.create_task(self._enqueue(queue, stop)),
                group.create_task(self._submit(queue, stop)),
                group.create_task(self._run_workflows(queue, stop)),
            ]
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.wait([worker, *tasks], return_when=asyncio.FIRST_COMPLETED)
            except TimeoutError:
                pass
            stop.set()
            if stays_open:
                for task in (worker, *tasks):
                    task.cancel()

    async def _enqueue(self, queue: Queue, stop: asyncio.Event) -> None:
        chance = random.Random(f"{self._seed} enqueue {self.report.openings}")
        while not stop.is_set() and queue._owner.failure is None:
            payload = payload_of(chance)
            await self.report.acknowledge(queue.enqueue("w", payload), payload)
            await asyncio.sleep(chance.uniform(0, 0.02))

    async def _submit(self, queue: Queue, stop: asyncio.Event) -> None:
        chance = random.Random(f"{self._seed} submit {self.report.openings}")
        async with JobRunner(queue, jobs=[large], state=None) as runner:
            while not stop.is_set() and queue._owner.failure is None:
                fill = chance.randrange(256)
                async with patiently():
                    handle = await runner.submit(large, fill)
                    if await handle.join(timeout=10) != bytes([fill]) * LARGE:
                        self.report.wrong.append(f"result of {handle.id}")
                    self.report.calls["results"] += 1

    async def _run_workflows(self, queue: Queue, stop: asyncio.Event) -> None:
        async with WorkflowRuntime(queue, self._remembering) as runtime:
            while not stop.is_set() and queue._owner.failure is None:
                run_id = queue.next_job_id()
                async with patiently():
                    await runtime.submit(RunSpec(b"m", run_id=run_id))
                    status = await runtime.wait_for_completion(run_id, timeout=10)
                    if status is not None and status.state in (RunState.FAILED, RunState.CANCELLED):
                        self.report.wrong.append(f"run {run_id} is {status}")
                    self.report.calls["runs"] += 1

    # -- beside the owner ------------------------------------------------------------------------

    async def _keep_objects(self) -> None:
        chance = random.Random(f"{self._seed} objects")
        while self._goes_on:
            queue = self._owner
            if queue is None:
                await asyncio.sleep(0.05)
                continue
            key = f"kept/{chance.randrange(2**60)}"
            value = chance.randbytes(16) * chance.choice((10, 1000, 1000, 1000, PARTS // 16))
            with contextlib.suppress(TaqubaError):
                await queue.objects.put(key, value)
                found = await queue.objects.get(key)
                if found != value:
                    self.report.wrong.append(f"object {key}: {found and found[:20]!r}")
                if key not in {info.key async for info in queue.objects.list("kept")}:
                    self.report.wrong.append(f"object {key} is not listed")
                await queue.objects.delete([key])
                self.report.calls["objects"] += 1
            await asyncio.sleep(0.02)

    async def _read(self) -> None:
        chance = random.Random(f"{self._seed} reader")
        while self._goes_on:
            mode: Mode = "checkpoint" if chance.random() < 0.5 else "follow_latest"
            with contextlib.suppress(TaqubaError):
                async with QueueReader.open(URL, mode=mode, poll_interval=0.2) as reader:
                    for _ in range(5):
                        await reader.stats("w")
                        await reader.list_jobs("w", "pending", limit=20)
                        await reader.inbox_stats()
                        await reader.rejected_batches()
                        self.report.calls["looks"] += 1
                        await asyncio.sleep(0.1)

    async def _stand(self, number: int) -> None:
        """Hold the lease for a while, and let the other one have it."""
        election = stand_for(StoreLocation.parse(URL), 3)
        chance = random.Random(f"{self._seed} candidate {number}")
        while self._goes_on:
            winning = asyncio.create_task(election.win())
            while self._goes_on and not winning.done():
                await asyncio.wait([winning], timeout=0.2)
            if winning.done():
                winning.result()
                self.report.calls["elections"] += 1
                await asyncio.sleep(chance.uniform(1, 4))
            else:
                winning.cancel()
            await election.resign()


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def campaign(
    seed: int, seconds: float, *, share: float = 0.01, engine: bool = True
) -> Report:
    """Run one, with a server of its own; see the module."""
    with FaultyS3() as s3, environment(s3.environment()), TemporaryDirectory() as folder:
        odd = OddBucket(seed, share, engine=engine)
        return await Campaign(s3, odd, Path(folder), seed, seconds).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--no-engine", action="store_true", help="spare the engine's own requests")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    for name in ("again", "reopening"):
        logging.getLogger(f"taquba._engine.{name}").setLevel(logging.INFO)
    report = asyncio.run(
        campaign(
            options.seed, 60 * options.minutes, share=options.share, engine=not options.no_engine
        )
    )
    print(report)
    report.check()


if __name__ == "__main__":
    main()
