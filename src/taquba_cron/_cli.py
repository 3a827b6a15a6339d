"""The command `taquba cron`, which taquba's command line imports when it is requested."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import typer

from taquba import ReadableStore
from taquba.cli import (
    AsJson,
    Column,
    CommandError,
    Document,
    ExitCode,
    Store,
    TakeOver,
    command,
    group,
    json_moment,
    note,
    owning,
    print_json,
    print_json_line,
    print_table,
    reading,
    relative,
    say,
)
from taquba_cron._errors import UnknownSchedule
from taquba_cron._schedule import ScheduleInfo, list_schedules
from taquba_cron._scheduler import CronScheduler

app: Final = group("Inspect, pause, resume and remove cron schedules.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]

_COLUMNS: Final = (
    Column("NAME", "fold"),
    Column("EXPRESSION"),
    Column("TIMEZONE", "cut"),
    Column("QUEUE", "cut"),
    Column("NEXT"),
    Column("LAST"),
)


@command(app, "list", "taquba cron list -s ./data", "taquba cron list -s ./data --json")
async def list_(store: Store, as_json: AsJson = False) -> None:
    """List the schedules in the store, with their next and last firings."""
    async with reading(store) as reader:
        found = await list_schedules(reader)
    if as_json:
        for schedule in found:
            print_json_line(_document(schedule))
        return
    print_table(_COLUMNS, [_row(schedule) for schedule in found])
    for schedule in found:
        if schedule.problem is not None:
            note(f"{schedule.name}: {schedule.problem}")


@command(app, "remove", "taquba cron remove -s ./data daily-report")
async def remove(
    name: Name, store: Store, take_over: TakeOver = False, as_json: AsJson = False
) -> None:
    """Remove a schedule, even one that cannot be read; jobs that it enqueued stay.

    A program that still registers the schedule starts it anew.
    """
    async with owning(store, take_over=take_over) as owner:
        schedule = await _known(owner, name)
        await CronScheduler(owner).remove(name)
    if as_json:
        print_json(_document(schedule))
    else:
        say(f"{schedule.name} was removed")


@command(app, "pause", "taquba cron pause -s ./data daily-report")
async def pause(
    name: Name, store: Store, take_over: TakeOver = False, as_json: AsJson = False
) -> None:
    """Drop the firings of a schedule until it is resumed."""
    await _change(name, store, take_over, as_json, CronScheduler.pause)


@command(app, "resume", "taquba cron resume -s ./data daily-report")
async def resume(
    name: Name, store: Store, take_over: TakeOver = False, as_json: AsJson = False
) -> None:
    """Resume a paused schedule with its next firing; missed firings stay dropped."""
    await _change(name, store, take_over, as_json, CronScheduler.resume)


async def _change(
    name: str,
    store: str,
    take_over: bool,
    as_json: bool,
    change: Callable[[CronScheduler, str], Awaitable[None]],
) -> None:
    async with owning(store, take_over=take_over) as owner:
        await _known(owner, name)
        await change(CronScheduler(owner), name)
        schedule = await _known(owner, name)
    _report(schedule, as_json)


async def _known(store: ReadableStore, name: str) -> ScheduleInfo:
    for schedule in await list_schedules(store):
        if schedule.name == name:
            return schedule
    raise CommandError(str(UnknownSchedule(name)), ExitCode.NOT_FOUND)


def _report(schedule: ScheduleInfo, as_json: bool) -> None:
    if as_json:
        print_json(_document(schedule))
    elif schedule.paused:
        say(f"{schedule.name} is paused")
    else:
        say(f"{schedule.name} fires next {relative(schedule.next_fire)}")


def _row(schedule: ScheduleInfo) -> list[str]:
    return [
        schedule.name,
        schedule.expression,
        schedule.timezone,
        schedule.queue_name,
        _next(schedule),
        relative(schedule.last_fired),
    ]


def _next(schedule: ScheduleInfo) -> str:
    if schedule.problem is not None:
        return "unreadable"
    return "paused" if schedule.paused else relative(schedule.next_fire)


def _document(schedule: ScheduleInfo) -> Document:
    return {
        "name": schedule.name,
        "expression": schedule.expression,
        "timezone": schedule.timezone,
        "queue": schedule.queue_name,
        "next_fire": json_moment(schedule.next_fire),
        "last_fired": json_moment(schedule.last_fired),
        "paused": schedule.paused,
        "problem": schedule.problem,
    }
