"""taquba_cron: jobs of a taquba queue at the times of a cron expression.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _cli          the command `taquba cron`, imported by taquba's command line alone
    _scheduler    sleeps until the next firing, and enqueues its job
    _schedule     a schedule as it is registered, its jobs, and what can be told about it
    _record       what is stored of a schedule, and what follows from it, as pure functions
    _expression   when an expression fires in a time zone: cron fields, gaps and repeated hours
    _errors       what can be wrong with a schedule

Start with `CronScheduler`.
"""

from taquba_cron._errors import (
    AlreadyRunning,
    DuplicateSchedule,
    InvalidCronExpression,
    UnknownSchedule,
    UnknownTimezone,
    UnreadableSchedule,
)
from taquba_cron._expression import CronExpression
from taquba_cron._record import CATCH_UP_LIMIT, CatchUp
from taquba_cron._schedule import ScheduleInfo, firing_time, list_schedules
from taquba_cron._scheduler import CronScheduler

__all__ = [
    "CATCH_UP_LIMIT",
    "AlreadyRunning",
    "CatchUp",
    "CronExpression",
    "CronScheduler",
    "DuplicateSchedule",
    "InvalidCronExpression",
    "ScheduleInfo",
    "UnknownSchedule",
    "UnknownTimezone",
    "UnreadableSchedule",
    "firing_time",
    "list_schedules",
]
