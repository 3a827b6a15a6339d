"""Every error that taquba_cron adds."""

from __future__ import annotations

from taquba import InvalidArgument, TaqubaError
from taquba.extending import describe


class InvalidCronExpression(InvalidArgument):
    """A cron expression cannot be read, or describes a time that never comes."""

    def __init__(self, expression: object, why: str) -> None:
        super().__init__(expression, why)
        self.expression = expression
        self.why = why

    def __str__(self) -> str:
        return f"{self.expression!r} is not a cron expression: {self.why}"


class UnknownTimezone(InvalidArgument):
    """A name is not that of an IANA time zone."""

    def __init__(self, timezone: object) -> None:
        super().__init__(timezone)
        self.timezone = timezone

    def __str__(self) -> str:
        return (
            f"{self.timezone!r} is not an IANA time zone: "
            "use a name such as 'Europe/Berlin' or 'UTC'"
        )


class DuplicateSchedule(TaqubaError):
    """A scheduler has a schedule of this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"the schedule {self.name!r} already exists: choose another name, or remove it first"


class UnknownSchedule(TaqubaError):
    """No schedule of this name is registered, and none is stored."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no schedule {self.name!r}; list_schedules() returns the existing ones"


class UnreadableSchedule(TaqubaError):
    """An entry of the store that should be the record of a schedule is not."""

    def __init__(self, key: str, why: str | BaseException) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        # An error that explains itself, such as UnknownTimezone, does so with its message.
        why = describe(self.why, bare=(TaqubaError,))
        return (
            f"the entry {self.key!r} is not the record of a schedule that can be read here "
            f"({why}): remove the schedule, or schedule it again with other values; an entry of "
            "your own belongs under another key"
        )


class AlreadyRunning(TaqubaError):
    """A scheduler was started while it was running."""

    def __str__(self) -> str:
        return "this scheduler is already running; make another one, or wait until run() returns"
