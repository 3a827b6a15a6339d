"""Importing the code that a command runs."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from taquba._cli.errors import CommandError, ExitCode


def load_object(where: str, kind: str, example: str) -> object:
    """Import ``module:name``, from the current folder as well; ``name`` may have dots.

    Args:
        where: The argument of the command.
        kind: The kind of thing that it should name, for messages.
        example: A valid value, for messages.

    Raises:
        CommandError: There is no such object, or importing its module fails.
    """
    module_name, _, path = where.partition(":")
    if not module_name or not path:
        raise CommandError(
            f"{where!r} does not name a {kind}: write module:{kind}, for example {example}",
            ExitCode.USAGE,
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise CommandError(f"importing {module_name} failed: {error}") from error
        raise CommandError(
            f"no module {error.name!r} in {here} or among the installed packages", ExitCode.USAGE
        ) from error
    except Exception as error:
        cause = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        raise CommandError(f"importing {module_name} failed: {cause}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise CommandError(f"{module_name} has no {path!r}", ExitCode.USAGE)
        found = getattr(found, name)
    return found
