"""Options and arguments that several commands share, and how a command is declared."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Annotated, Any, ParamSpec

import typer

from taquba._cli import parsing
from taquba._cli.errors import OutputClosed

P = ParamSpec("P")

Store = Annotated[
    str,
    typer.Option(
        "--store",
        "-s",
        envvar="TAQUBA_STORE",
        metavar="URL",
        help="The store: a folder, s3://bucket/prefix, gs://..., az://...",
    ),
]
PayloadUrl = Annotated[
    str | None,
    typer.Option(
        "--payload-url",
        envvar="TAQUBA_PAYLOAD_URL",
        metavar="URL",
        help="Where the owner keeps large payloads, if it set payload_url.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Open the store even if an owner lives, which fences it."),
]
Create = Annotated[bool, typer.Option("--create", help="Create the store if there is none.")]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do it. Without this, only show what would be done.")
]
QueueFilter = Annotated[
    str | None, typer.Option("--queue", "-q", metavar="NAME", help="Only jobs of this queue.")
]
Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, metavar="N", help="Show at most this many.")
]
JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job's id.")]


def duration_option(name: str, help: str) -> object:
    """An option whose value is a duration such as ``90s`` or ``1h30m``; a number is seconds."""
    return typer.Option(name, parser=parsing.duration, metavar="DURATION", help=help)


OlderThan = Annotated[
    timedelta | None, duration_option("--older-than", "Only those that died longer ago than this.")
]
NewerThan = Annotated[
    timedelta | None, duration_option("--newer-than", "Only those that died since then.")
]


def group(help: str) -> typer.Typer:
    """A group of commands, such as ``taquba jobs ...``."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.callback(help=help, invoke_without_command=True)(help_if_bare)
    return app


def help_if_bare(context: typer.Context) -> None:
    """Print the help if no command was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def command(
    app: typer.Typer, name: str, *examples: str
) -> Callable[[Callable[P, Coroutine[Any, Any, None]]], Callable[P, None]]:
    """Declare an async function as a command; its docstring is its help.

    Args:
        app: Where to add the command, such as a `group`.
        name: The command's name there.
        *examples: Shell lines for the end of the help.
    """

    def declare(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                asyncio.run(function(*args, **kwargs))
            except BrokenPipeError as error:
                # Typer would treat it as a failure.
                raise OutputClosed from error

        # "\b" keeps the line breaks of the paragraph that follows.
        shown = "\n".join(f"  {example}" for example in examples)
        app.command(
            name,
            help=f"{inspect.getdoc(function)}\n\n\b\nExamples:\n{shown}",
        )(call)
        return call

    return declare
