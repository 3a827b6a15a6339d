"""Content that a command is given: as an argument, in a file, or on standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from taquba._cli.errors import CommandError, ExitCode

File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="PATH",
        help="Read the content from this file or pipe; - is standard input.",
    ),
]


def content(name: str, argument: str | None, file: Path | None) -> bytes:
    """The bytes of the content; exactly one source must be named."""
    if (argument is None) == (file is None):
        raise CommandError(
            f"name the {name} once: as an argument ('' for an empty one), as - for standard "
            "input, or with --file",
            ExitCode.USAGE,
        )
    if file is not None and str(file) != "-":
        try:
            return file.read_bytes()
        except OSError as error:
            raise CommandError(f"cannot read {file}: {error.strerror}") from error
    if file is not None or argument == "-":
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - as with <&-
            raise CommandError(f"standard input is closed: name the {name}", ExitCode.USAGE)
        return sys.stdin.buffer.read()
    # Bytes of the command line that are not text pass through as they are.
    return (argument or "").encode(errors="surrogateescape")
