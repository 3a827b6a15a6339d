"""Every error that taquba_cron adds."""

from __future__ import annotations

from taquba import InvalidArgument


class InvalidCronExpression(InvalidArgument):
    """A cron expression cannot be read, or describes a time that never comes."""

    def __init__(self, expression: object, why: str) -> None:
        super().__init__(expression, why)
        self.expression = expression
        self.why = why

    def __str__(self) -> str:
        return f"{self.expression!r} is no cron expression: {self.why}"


class UnknownTimezone(InvalidArgument):
    """A name is not that of an IANA time zone."""

    def __init__(self, timezone: object) -> None:
        super().__init__(timezone)
        self.timezone = timezone

    def __str__(self) -> str:
        return (
            f"{self.timezone!r} is no IANA time zone: use a name such as 'Europe/Berlin' or 'UTC'"
        )
