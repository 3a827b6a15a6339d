"""The commands put together; how errors and interrupts become messages and exit codes."""

from __future__ import annotations

import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from taquba import TaqubaError
from taquba._cli import (
    bench,
    change,
    dead,
    doctor,
    inbox,
    jobs,
    kv,
    members,
    overview,
    service,
    top,
    worker,
)
from taquba._cli.errors import CommandError, ExitCode, OutputClosed, code_of
from taquba._cli.options import help_if_bare
from taquba._cli.output import complain, note
from taquba._cli.plugins import CommandsWithPlugins
from taquba._model.redaction import without_secrets

app = typer.Typer(
    name="taquba",
    cls=CommandsWithPlugins,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused because an owner lives or may "
    "live, 4 not found. The store may be set with TAQUBA_STORE.",
)
overview.add_to(app)
inbox.add_to(app)
members.add_to(app)
app.add_typer(jobs.app, name="jobs")
app.add_typer(dead.app, name="dead")
change.add_to(app)
app.add_typer(kv.app, name="kv")
top.add_to(app)
worker.add_to(app)
service.add_to(app)
bench.add_to(app)
doctor.add_to(app)


class _Settings:
    debug = False


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"taquba {importlib.metadata.version('taquba')}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    help="Inspect and change taquba stores. Commands that only inspect never disturb the owner.",
)
def _global_options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="TAQUBA_DEBUG", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version
    _Settings.debug = debug
    help_if_bare(context)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    _have_streams()
    # If the output is not UTF-8, characters that it cannot hold are written in escaped form.
    cast("io.TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except (OutputClosed, BrokenPipeError):
        _write_no_more()
        return ExitCode.BROKEN_PIPE
    except OSError as error:
        if error.filename is not None:
            raise
        _write_no_more()
        complain(f"the output cannot be written: {error.strerror}")
        return ExitCode.FAILED
    return code


def _have_streams() -> None:
    """Write to nowhere what was started without a place for it (``>&-``)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the end


def _write_no_more() -> None:
    # Python must not complain at exit, either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="taquba", standalone_mode=False)
    except typer.TyperException as error:
        complain(error.format_message())
        # Usage errors know their command.
        context = getattr(error, "ctx", None)
        if context is not None:
            note(f"see {context.command_path} --help")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except CommandError as error:
        _explain(error)
        return error.code
    except TaqubaError as error:
        _explain(error)
        return code_of(error)
    return code if isinstance(code, int) else ExitCode.OK


def _explain(error: Exception) -> None:
    if _Settings.debug:
        traceback.print_exception(without_secrets(error))
    else:
        complain(str(error))
