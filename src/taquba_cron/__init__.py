"""taquba_cron: jobs of a taquba queue at the times of a cron expression.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _expression   when an expression fires in a time zone: cron fields, gaps and repeated hours
    _errors       what can be wrong with a schedule
"""

from taquba_cron._errors import InvalidCronExpression, UnknownTimezone
from taquba_cron._expression import CronExpression

__all__ = [
    "CronExpression",
    "InvalidCronExpression",
    "UnknownTimezone",
]
