"""An owner opens its engine again while another process opens the store: the newer one gets it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from slatedb.uniffi import DefaultMetricsRecorder, ObjectStore

from taquba import Queue, StoreError, StoreFenced
from taquba._engine import building, reopening, repairs
from taquba._engine.building import Built
from taquba._engine.engine import Engine
from taquba._engine.write_ahead_log import WriteAheadLog
from taquba._model.ids import IdGenerator
from taquba._model.keys import Op
from taquba._objects.location import StoreLocation
from tests.crash.audit import audit
from tests.servers import faulty_s3
from tests.servers.faulty_s3 import FaultyS3
from tests.store.oddly import CONFLICT, Odd

URL = "s3://bucket/prefix"

Step = Callable[[], Awaitable[object]]


class Builds:
    """Does something before and after the engine is built, once each and in this order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: list[Step] = []
        self.after: list[Step] = []
        self.count = 0
        build = building.build_once

        async def build_beside(
            location: StoreLocation,
            store: ObjectStore,
            log: WriteAheadLog,
            recorder: DefaultMetricsRecorder | None,
            before: int,
        ) -> Built:
            self.count += 1
            if self.before:
                await self.before.pop(0)()
            after = self.after.pop(0) if self.after else None
            built = await build(location, store, log, recorder, before)
            if after is not None:
                await after()
            return built

        for module in (building, reopening):
            monkeypatch.setattr(module, "build_once", build_beside)


@pytest.fixture
def builds(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Builds:
    del s3
    return Builds(monkeypatch)


def announced(s3: FaultyS3) -> list[str]:
    return [key for key in s3.objects if f"/{repairs.FOLDER}/" in key]


async def nothing() -> None:
    return


async def opened() -> Queue:
    return await Queue.open(URL)


@pytest.mark.parametrize("new", [True, False])
async def test_an_opening_that_the_former_owner_fences_by_opening_again_repeats_itself(
    builds: Builds, odd: Odd, *, new: bool
) -> None:
    """Between the look of the former owner and its fence, another one has begun to open."""
    if not new:
        async with Queue.open(URL) as queue:
            await queue.enqueue("q", b"")
    former = await Queue.open(URL)
    await former.enqueue("q", b"")
    begun, done = asyncio.Event(), asyncio.Event()
    opening: list[asyncio.Task[Queue]] = []

    async def begin() -> None:
        opening.append(asyncio.create_task(opened()))
        await begun.wait()

    async def wait() -> None:
        begun.set()
        await done.wait()

    builds.before.append(begin)
    builds.after.append(wait)
    odd.answer("PUT", "/wal/", CONFLICT)
    await former.enqueue("q", b"")
    done.set()
    newer = await opening[0]
    with pytest.raises(StoreFenced):
        await former.enqueue("q", b"")
    await newer.enqueue("q", b"")
    assert (await newer.stats("q")).pending == 3 + (not new)
    await audit(newer, idle=False)
    await former.close()
    await newer.close()


async def test_an_owner_that_a_former_one_fences_by_opening_again_goes_on(
    s3: FaultyS3, builds: Builds, odd: Odd
) -> None:
    """The newer one has opened the store completely when the former one fences it."""
    former = await Queue.open(URL)
    await former.enqueue("q", b"")
    newer: list[Queue] = []

    async def open_another() -> None:
        newer.append(await Queue.open(URL))
        await newer[0].enqueue("q", b"")

    builds.before.append(open_another)
    odd.answer("PUT", "/wal/", CONFLICT)
    with pytest.raises(StoreFenced):
        await former.enqueue("q", b"")
    (queue,) = newer
    claimed = await queue.claim("q")
    assert claimed is not None
    await queue.ack(claimed)
    await queue.enqueue("q", b"")
    assert (await queue.stats("q")).pending == 2
    assert not announced(s3)
    await former.close()
    await audit(queue, idle=False)
    await queue.close()
    async with Queue.open(URL) as queue:
        assert (await queue.stats("q")).pending == 2
        await audit(queue, idle=False)


async def test_what_a_former_owner_left_does_not_excuse_an_owner_that_was_fenced_for_good(
    s3: FaultyS3, builds: Builds, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = await Queue.open(URL)
    builds.before.append(asyncio.Event().wait)
    odd.answer("PUT", "/wal/", CONFLICT)
    with monkeypatch.context() as patched:
        patched.setattr(reopening, "PATIENCE", 0.3)
        with pytest.raises(StoreError, match="could not be opened again"):
            await former.enqueue("q", b"")
    assert announced(s3)
    monkeypatch.setattr(repairs, "_LONGEST", 0.2)
    second = await Queue.open(URL)
    await second.enqueue("q", b"")
    third = await Queue.open(URL)
    built = builds.count
    with pytest.raises(StoreFenced):
        await second.enqueue("q", b"")
    assert builds.count == built
    assert not announced(s3)
    await third.enqueue("q", b"")
    for queue in (former, second, third):
        await queue.close()


async def test_of_two_openings_at_once_one_has_the_store(builds: Builds) -> None:
    """Neither has seen the other one begin."""
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await both.wait()

    builds.before += [meet, meet]
    found = await asyncio.gather(opened(), opened(), return_exceptions=True)
    queues = [queue for queue in found if isinstance(queue, Queue)]
    assert queues
    said = await asyncio.gather(
        *(queue.enqueue("q", b"") for queue in queues), return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in said) == 1, said
    await asyncio.gather(*(queue.close() for queue in queues))


async def test_a_former_owner_that_counted_the_next_one_as_itself_does_not_stop_it(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next owner is built before the first one has counted how often the store was opened."""
    newer: list[Queue] = []
    mark = Engine.mark

    async def mark_late(self: Engine, ids: IdGenerator) -> Op:
        if not newer and builds.count == 1:
            builds.after.append(go_on)
            tasks.append(asyncio.create_task(open_another()))
            await counted.wait()
        return await mark(self, ids)

    async def open_another() -> None:
        newer.append(await Queue.open(URL))

    async def go_on() -> None:
        counted.set()
        await first_is_open.wait()

    tasks: list[asyncio.Task[None]] = []
    counted, first_is_open = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(Engine, "mark", mark_late)
    opening_first = asyncio.create_task(opened())
    await counted.wait()
    first_is_open.set()
    first = (await asyncio.gather(opening_first, return_exceptions=True))[0]
    await asyncio.gather(*tasks)
    await newer[0].enqueue("q", b"")
    if isinstance(first, Queue):
        with pytest.raises(StoreFenced):
            await first.enqueue("q", b"")
        await first.close()
    await newer[0].enqueue("q", b"")
    assert (await newer[0].stats("q")).pending == 2
    await newer[0].close()


@pytest.mark.parametrize("failed", [0, 1])
async def test_an_opening_again_that_counts_twice_is_not_taken_for_another_owner(
    s3: FaultyS3, odd: Odd, failed: int
) -> None:
    async with Queue.open(URL) as queue:
        await queue.enqueue("q", b"")
        left = 2

        def carried_out(method: str, key: str, _conditional: bool) -> faulty_s3.Odd | None:
            nonlocal left
            if method != "PUT" or "/manifest/" not in key or not left:
                return None
            left -= 1
            return faulty_s3.Odd(409, "ConditionalRequestConflict", carried_out=True)

        for _ in range(2):
            left = 2
            s3.odd = carried_out
            if failed:
                odd.answer("PUT", "/wal/", CONFLICT, times=2)
            odd.answer("PUT", "/wal/", CONFLICT)
            await queue.enqueue("q", b"")
        assert (await queue.stats("q")).pending == 3
        assert not announced(s3)


async def test_an_opening_whose_engine_was_opened_again_counts_that(
    s3: FaultyS3, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = Engine.mark

    async def mark_and_stop(self: Engine, ids: IdGenerator) -> Op:
        row = await mark(self, ids)
        odd.answer("PUT", "/wal/", CONFLICT)
        return row

    async with Queue.open(URL):
        pass
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "mark", mark_and_stop)
        queue = await Queue.open(URL)
    async with queue:
        odd.answer("PUT", "/wal/", CONFLICT)
        await queue.enqueue("q", b"")
        assert (await queue.stats("q")).pending == 1


async def test_an_opening_does_not_go_on_with_what_the_former_owner_has_changed_meanwhile(
    builds: Builds, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine stops, and while it is opened again the former owner has the store for a while."""
    former = await Queue.open(URL)
    await former.enqueue("q", b"")
    mark = Engine.mark
    goes_on, is_late = asyncio.Event(), asyncio.Event()

    async def be_late() -> None:
        is_late.set()
        await goes_on.wait()

    async def mark_and_stop(self: Engine, ids: IdGenerator) -> Op:
        row = await mark(self, ids)
        if not goes_on.is_set():
            # With its first commit. Counters have been read by now.
            odd.answer("PUT", "/wal/", CONFLICT)
        return row

    async def let_the_former_owner_commit() -> None:
        goes_on.set()
        await enqueueing

    builds.before += [be_late, nothing, let_the_former_owner_commit]
    odd.answer("PUT", "/wal/", CONFLICT)
    enqueueing = asyncio.create_task(former.enqueue("q", b""))
    await is_late.wait()
    monkeypatch.setattr(Engine, "mark", mark_and_stop)
    newer = await Queue.open(URL)
    assert goes_on.is_set()
    assert (await newer.stats("q")).pending == 2
    await newer.enqueue("q", b"")
    assert (await newer.stats("q")).pending == 3
    await audit(newer, idle=False)
    await former.close()
    await newer.close()
