"""How the type checkers see taquba_cron."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import assert_type

import anyio

from taquba import JobRecord, Queue, QueueReader
from taquba_cron import (
    CATCH_UP_LIMIT,
    CatchUp,
    CronExpression,
    CronScheduler,
    ScheduleInfo,
    firing_time,
    list_schedules,
)


async def schedules(queue: Queue, reader: QueueReader, job: JobRecord) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("a", "* * * * *", "q", b"")
    scheduler.schedule(
        "b",
        "* * * * *",
        "q",
        b"",
        timezone="Europe/Berlin",
        headers={"a": "b"},
        priority=1,
        max_attempts=2,
        jitter=timedelta(seconds=3),
        catch_up="all",
    )
    scheduler.schedule("c", "* * * * *", "q", b"", catch_up="some")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    catch_up: CatchUp = "latest"
    scheduler.schedule("d", "* * * * *", "q", b"", jitter=0.5, catch_up=catch_up)
    async with scheduler as running:
        assert_type(running, CronScheduler)
    await scheduler.run()
    await scheduler.run(asyncio.Event())
    await scheduler.run(shutdown=anyio.Event())
    await scheduler.pause("a")
    await scheduler.resume("a")
    await scheduler.remove("a")
    assert_type(await scheduler.schedules(), list[ScheduleInfo])
    for info in [*await list_schedules(queue), *await list_schedules(reader)]:
        assert_type(info.next_fire, datetime | None)
        assert_type(info.last_fired, datetime | None)
        assert_type(info.paused, bool)
        assert_type((info.name, info.expression, info.timezone), tuple[str, str, str])
        assert_type(info.queue_name, str)
    assert_type(firing_time(job), datetime | None)
    limit: int = CATCH_UP_LIMIT
    del limit


def expressions() -> None:
    expression = CronExpression("* * * * *", "Europe/Berlin")
    assert_type(expression.next_after(datetime.now(UTC)), datetime)
    assert_type(expression.newest_first(datetime.now(UTC)), Iterator[datetime])
