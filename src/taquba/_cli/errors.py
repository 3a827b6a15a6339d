"""How commands end: exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum

from taquba import (
    InvalidArgument,
    InvalidArgumentType,
    JobNotFound,
    TaqubaError,
)


class ExitCode(IntEnum):
    """The exit code of the program; documented in `docs/cli.md`."""

    ok = 0
    failed = 1
    usage = 2
    refused = 3
    not_found = 4
    interrupted = 130
    broken_pipe = 141


class CommandError(Exception):
    """A command cannot continue; its message is for the person at the terminal."""

    def __init__(self, message: str, code: ExitCode = ExitCode.failed) -> None:
        super().__init__(message)
        self.code = code


class OutputClosed(Exception):
    """The reader of the output has gone."""


def code_of(error: TaqubaError) -> ExitCode:
    """The exit code of an error of the library."""
    match error:
        case InvalidArgument() | InvalidArgumentType():
            return ExitCode.usage
        case JobNotFound():
            return ExitCode.not_found
        case _:
            return ExitCode.failed
