"""Importing what a command is told to run."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from taquba._cli.errors import CommandError, ExitCode


def load_object(where: str, kind: str, example: str) -> object:
    """Import ``module:name``, also from the current folder; ``name`` may have dots.

    Args:
        where: What the command was given.
        kind: What it names, for messages.
        example: How it might look, for messages.

    Raises:
        CommandError: There is no such thing, or importing its module fails.
    """
    module_name, _, path = where.partition(":")
    if not module_name or not path:
        raise CommandError(
            f"{where!r} names no {kind}: write module:{kind}, for example {example}",
            ExitCode.usage,
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise CommandError(f"importing {module_name} failed: {error}") from error
        raise CommandError(
            f"no module {error.name!r} in {here} or among the installed packages", ExitCode.usage
        ) from error
    except Exception as error:
        cause = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        raise CommandError(f"importing {module_name} failed: {cause}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise CommandError(f"{module_name} has no {path!r}", ExitCode.usage)
        found = getattr(found, name)
    return found
