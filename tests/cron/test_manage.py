"""Pausing, resuming, removing and listing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taquba import Queue, QueueReader
from taquba.testing import MockClock, OpenQueue
from taquba_cron import (
    CronScheduler,
    ScheduleInfo,
    UnknownSchedule,
    UnreadableSchedule,
    list_schedules,
)
from tests.cron.support import at, fired


async def test_a_paused_schedule_drops_its_firings_until_it_is_resumed(
    queue: Queue, mock_clock: MockClock
) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 * * * *", "q", b"", catch_up="all")
    scheduler.schedule("other", "0 * * * *", "other", b"")
    async with scheduler:
        await mock_clock.advance(3600)
        await scheduler.pause("s")
        await scheduler.pause("s")
        await mock_clock.advance(2 * 3600)
        await scheduler.resume("s")
        await scheduler.resume("s")
        await mock_clock.advance(3600)
    assert await fired(queue) == [at("01:00"), at("04:00")]
    assert len(await fired(queue, "other")) == 4


async def test_a_pause_survives_a_restart(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    def scheduler(queue: Queue) -> CronScheduler:
        made = CronScheduler(queue)
        made.schedule("s", "0 * * * *", "q", b"", catch_up="all")
        return made

    first = await open_queue("memory://pause")
    async with scheduler(first) as running:
        await running.pause("s")
    await first.close()
    second = await open_queue("memory://pause")
    async with scheduler(second) as running:
        await mock_clock.advance(2 * 3600)
        assert await fired(second) == []
        await running.resume("s")
        await mock_clock.advance(3600)
    assert await fired(second) == [at("03:00")]


async def test_schedules_can_be_paused_before_anything_runs(
    queue: Queue, mock_clock: MockClock
) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 * * * *", "q", b"")
    await scheduler.pause("s")
    async with scheduler:
        await mock_clock.advance(3600)
    assert await fired(queue) == []


async def test_another_scheduler_can_pause_and_remove_what_is_stored(
    queue: Queue, mock_clock: MockClock
) -> None:
    running, operator = CronScheduler(queue), CronScheduler(queue)
    running.schedule("s", "0 * * * *", "q", b"")
    async with running:
        await operator.pause("s")
        await mock_clock.advance(3600)
        await operator.resume("s")
        await mock_clock.advance(3600)
        assert await fired(queue) == [at("02:00")]
    await operator.remove("s")
    assert await list_schedules(queue) == []


async def test_what_is_removed_elsewhere_but_still_served_begins_anew(
    queue: Queue, mock_clock: MockClock
) -> None:
    running, operator = CronScheduler(queue), CronScheduler(queue)
    running.schedule("s", "0 * * * *", "q", b"", catch_up="all")
    async with running:
        await mock_clock.advance(3600)
        await operator.remove("s")
        await mock_clock.advance(2 * 3600)
        # The firing at which it found itself removed is the one that is lost.
        assert await fired(queue) == [at("01:00"), at("03:00")]


async def test_unknown_schedules_are_named(queue: Queue) -> None:
    scheduler = CronScheduler(queue)
    for call in (scheduler.pause, scheduler.resume, scheduler.remove):
        with pytest.raises(UnknownSchedule, match="'nightly'") as caught:
            await call("nightly")
        assert caught.value.permanent


async def test_listing_tells_what_is_known(queue: Queue, mock_clock: MockClock) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("b", "30 9 * * *", "reports", b"", timezone="Asia/Tokyo")
    scheduler.schedule("a", "0 * * * *", "q", b"")
    expected = ScheduleInfo(
        name="b",
        expression="30 9 * * *",
        timezone="Asia/Tokyo",
        queue_name="reports",
        next_fire=at("00:30"),
        last_fired=None,
        paused=False,
    )
    # What did not run yet is known to the scheduler only.
    assert await list_schedules(queue) == []
    assert (await scheduler.schedules())[1] == expected
    async with scheduler:
        await mock_clock.advance(3600)
        await scheduler.pause("a")
        a, b = await scheduler.schedules()
        assert (b.last_fired, b.next_fire) == (at("00:30"), at("2030-01-02 00:30"))
        assert (a.last_fired, a.next_fire, a.paused) == (at("01:00"), None, True)
        assert await list_schedules(queue) == [a, b]
    assert await list_schedules(queue) == [a, b]


async def test_a_reader_lists_schedules_beside_their_owner(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    clock = MockClock()
    async with Queue.open(url, clock=clock) as queue:
        scheduler = CronScheduler(queue)
        for n in range(150):
            scheduler.schedule(f"s{n:03}", "0 0 1 1 *", "q", b"", timezone="Europe/Berlin")
        async with scheduler:
            async with QueueReader.open(url) as reader:
                found = await list_schedules(reader)
            assert [info.name for info in found] == [f"s{n:03}" for n in range(150)]
            assert {info.next_fire.strftime("%m-%d %H:%M") for info in found if info.next_fire} == {
                "12-31 23:00"
            }


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"expression": "* * * * *", "timezone": "Nowhere"}',
    ],
)
async def test_an_entry_that_cannot_be_read_is_named_and_hinders_no_other(
    queue: Queue, mock_clock: MockClock, value: bytes
) -> None:
    await queue.kv_put("cron/s", value)
    await queue.kv_put("cron/other", value)
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "* * * * *", "q", b"")
    scheduler.schedule("good", "* * * * *", "q", b"")
    async with scheduler:
        await mock_clock.advance(120)
        assert await fired(queue) == [at("00:01"), at("00:02")]
        good, other, s = await list_schedules(queue)
        assert (good.name, good.problem) == ("good", None)
        for unreadable in (s, other):
            assert f"the entry 'cron/{unreadable.name}'" in (unreadable.problem or "")
            assert unreadable.next_fire is None
        assert [info.problem is None for info in await scheduler.schedules()] == [True, False]
        for call in (scheduler.pause, scheduler.resume):
            with pytest.raises(UnreadableSchedule, match="'cron/s'"):
                await call("s")
        # What is not a schedule is left as it is; it can be removed.
        assert await queue.kv_get("cron/s") == value
        await CronScheduler(queue).remove("s")
        await CronScheduler(queue).remove("other")
        await mock_clock.advance(120)
        found = await list_schedules(queue)
        assert [(info.name, info.problem) for info in found] == [("good", None), ("s", None)]
        assert len(await fired(queue)) > 4


async def test_a_schedule_whose_zone_is_unknown_by_now_goes_on_with_that_of_the_program(
    queue: Queue, mock_clock: MockClock
) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 * * * *", "q", b"")
    async with scheduler:
        await mock_clock.advance(3600)
    row = json.loads(await queue.kv_get("cron/s") or b"")
    await queue.kv_put("cron/s", json.dumps(row | {"timezone": "Mars/Base"}).encode())
    (told,) = await list_schedules(queue)
    assert "'Mars/Base' is not an IANA time zone" in (told.problem or "")
    assert (told.expression, told.timezone, told.queue_name) == ("0 * * * *", "Mars/Base", "q")
    again = CronScheduler(queue)
    again.schedule("s", "30 * * * *", "q", b"")
    async with again:
        await mock_clock.advance(3600)
    assert await fired(queue) == [at("01:00"), at("01:30")]
    assert [info.problem for info in await list_schedules(queue)] == [None]


async def test_a_name_that_is_no_text_is_listed_as_such(queue: Queue) -> None:
    await queue.kv_put(b"cron/\xff", b"{}")
    (told,) = await list_schedules(queue)
    assert told.name == repr(b"cron/\xff")
    assert "is not text" in (told.problem or "")
