"""taquba_cron: jobs of a taquba queue at the times of a cron expression.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _cli         the command `taquba cron`, which taquba's command line imports when it is requested
    _scheduler   `CronScheduler`: sleeps until the next firing, and enqueues its job
    _schedule    a registered schedule, the jobs it makes, and the information about it
    _record      the stored record of a schedule, and which firings are due by it
    _expression  when a cron expression fires: fields matched in local time
    _errors      every error that taquba_cron adds

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
