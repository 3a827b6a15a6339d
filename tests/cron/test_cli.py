from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taquba import Queue
from taquba.testing import MockClock
from taquba_cron import CronScheduler
from tests.cli.support import Taquba, owner

pytestmark = pytest.mark.allow_blocking("a command has its event loop for itself")


def register(scheduler: CronScheduler) -> None:
    scheduler.schedule("hourly", "0 * * * *", "work", b"")
    scheduler.schedule(
        "never-yet", "0 9 1 1 *", "reports", b"", timezone="Europe/Berlin", catch_up="all"
    )


async def start_once(folder: Path, ended: datetime) -> list[str]:
    """An application with two schedules that ran for three hours; the queues that got jobs."""
    clock = MockClock(ended - timedelta(hours=3))
    async with Queue.open(folder, clock=clock) as queue:
        scheduler = CronScheduler(queue)
        register(scheduler)
        async with scheduler:
            await clock.advance(timedelta(hours=3))
        return await queue.list_queues()


@pytest.fixture
def taquba(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Taquba:
    folder = tmp_path / "scheduled"
    assert asyncio.run(start_once(folder, datetime.now(UTC))) == ["work"]
    return Taquba(capsys, folder)


def test_schedules_are_listed(taquba: Taquba) -> None:
    hourly, never_yet = taquba.ok("cron", "list", "--json").lines
    last = datetime.fromisoformat(hourly.pop("last_fired"))
    following = datetime.fromisoformat(hourly.pop("next_fire"))
    assert hourly == {
        "name": "hourly",
        "expression": "0 * * * *",
        "timezone": "UTC",
        "queue": "work",
        "paused": False,
        "problem": None,
    }
    assert last <= datetime.now(UTC) < following
    assert following - last in (timedelta(hours=1), timedelta(hours=2))
    assert (never_yet["timezone"], never_yet["last_fired"]) == ("Europe/Berlin", None)
    header, *rows = taquba.ok("cron", "list").out.splitlines()
    assert header.split() == ["NAME", "EXPRESSION", "TIMEZONE", "QUEUE", "NEXT", "LAST"]
    assert rows[0].startswith("hourly     0 * * * *   UTC            work     in ")


def test_a_pause_holds_until_the_schedule_is_resumed(taquba: Taquba) -> None:
    assert taquba.ok("cron", "pause", "hourly").out == "hourly is paused\n"
    paused = taquba.ok("cron", "list", "--json").lines[0]
    assert (paused["paused"], paused["next_fire"]) == (True, None)
    assert "  paused  " in taquba.ok("cron", "list").out
    # The application's next life drops the firings.
    later = datetime.now(UTC) + timedelta(hours=12)
    before = taquba.ok("stats", "-q", "work", "--json").document["pending"]
    asyncio.run(start_once(taquba.store, later))
    assert taquba.ok("stats", "-q", "work", "--json").document["pending"] == before

    document = taquba.ok("cron", "resume", "hourly", "--json").document
    assert (document["name"], document["paused"]) == ("hourly", False)
    assert document["next_fire"] is not None
    assert taquba.ok("cron", "resume", "hourly").out.startswith("hourly fires next in ")
    asyncio.run(start_once(taquba.store, later + timedelta(hours=12)))
    assert taquba.ok("stats", "-q", "work", "--json").document["pending"] > before


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_schedule_that_is_not_stored_is_not_found(taquba: Taquba, command: str) -> None:
    before = taquba.ok("cron", "list", "--json").out
    failed = taquba("cron", command, "daily")
    assert (failed.code, failed.out) == (4, "")
    assert failed.err.startswith("taquba: there is no schedule 'daily'; ")
    assert taquba.ok("cron", "list", "--json").out == before


def test_a_living_owner_is_not_disturbed(taquba: Taquba) -> None:
    with owner(taquba.store) as living:
        for command in ("pause", "resume"):
            refused = taquba("cron", command, "hourly")
            assert refused.code == 3
            assert "an owner is running" in refused.err
        assert len(taquba.ok("cron", "list", "--json").lines) == 2
        assert living.tell("job") != "fenced"
        taquba.ok("cron", "pause", "hourly", "--take-over")
        assert living.tell("job") == "fenced"


def test_a_schedule_that_cannot_be_read_is_listed_and_removed(taquba: Taquba) -> None:
    taquba.ok("kv", "put", "cron/broken", "{}")
    listed = taquba.ok("cron", "list")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == [
        "broken",
        "hourly",
        "never-yet",
    ]
    assert "unreadable" in listed.out
    assert "the entry 'cron/broken' is not the record of a schedule" in listed.err
    assert "cron/broken" in taquba.ok("cron", "list", "--json").lines[0]["problem"]
    assert taquba.ok("cron", "remove", "broken").out == "broken was removed\n"
    assert taquba.ok("cron", "remove", "hourly", "--json").document["name"] == "hourly"
    assert taquba("cron", "remove", "hourly").code == 4
    assert [line["name"] for line in taquba.ok("cron", "list", "--json").lines] == ["never-yet"]
