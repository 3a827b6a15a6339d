"""How commands end: exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum

from taquba import (
    InvalidArgument,
    InvalidArgumentType,
    JobNotFound,
    StoreOwned,
    TaqubaError,
)


class ExitCode(IntEnum):
    """The exit code of the program; documented in `docs/cli.md`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(Exception):
    """A command cannot continue; its message is for the person at the terminal."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


class OutputClosed(Exception):
    """The reader of the output has gone."""


def code_of(error: TaqubaError) -> ExitCode:
    """The exit code of an error of the library."""
    match error:
        case InvalidArgument() | InvalidArgumentType():
            return ExitCode.USAGE
        case JobNotFound():
            return ExitCode.NOT_FOUND
        case StoreOwned():
            return ExitCode.REFUSED
        case _:
            return ExitCode.FAILED
