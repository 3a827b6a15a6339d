"""Commands that installed distributions add: entry points of the group ``taquba.cli``.

A command is imported when it is requested, so it does not pay for others, and one that cannot be
imported fails alone.
"""

from __future__ import annotations

import functools
import importlib.metadata
import traceback
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any, Final

import typer
from typer.core import TyperGroup

from taquba._cli.errors import CommandError
from taquba._cli.output import complain

GROUP: Final = "taquba.cli"


class CommandsWithPlugins(TyperGroup):
    """The commands of taquba, and below them those that distributions add."""

    # The type of a context has a name only in a private module of typer.
    def list_commands(self, ctx: Any) -> list[str]:
        """All commands; those that are left out in favour of taquba's own are reported."""
        own = super().list_commands(ctx)
        added = _entry_points()
        for name in sorted(added.keys() & set(own)):
            complain(
                f"{_origins(added[name])}: the command {name!r} is left out, because taquba has one"
            )
        return [*own, *sorted(added.keys() - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command; one that cannot be loaded reports that when it is run."""
        own = super().get_command(ctx, cmd_name)
        points = _entry_points().get(cmd_name)
        if own is not None or points is None:
            return own
        return typer.main.get_command(_loaded(cmd_name, points))


@functools.cache
def _entry_points() -> dict[str, list[EntryPoint]]:
    found: defaultdict[str, list[EntryPoint]] = defaultdict(list)
    for point in importlib.metadata.entry_points(group=GROUP):
        found[point.name].append(point)
    return found


def _loaded(name: str, points: Sequence[EntryPoint]) -> typer.Typer:
    if len(points) > 1:
        return _unusable(
            name, f"{_origins(points)} each add the command {name!r}: keep one of them"
        )
    [point] = points
    try:
        added = point.load()
    except Exception as error:
        cause = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        return _unusable(
            name, f"the command {name!r} of {_origins(points)} cannot be loaded: {cause}", error
        )
    if not isinstance(added, typer.Typer):
        return _unusable(
            name, f"the command {name!r} of {_origins(points)} is not a typer.Typer: {added!r}"
        )
    return added


def _unusable(name: str, why: str, cause: Exception | None = None) -> typer.Typer:
    """A command that only says why the real one is missing, whatever its arguments."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)

    @app.command(
        name,
        help=f"Not available: {why}",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def fail() -> None:
        raise CommandError(why) from cause

    return app


def _origins(points: Sequence[EntryPoint]) -> str:
    """The distributions of entry points, with their versions."""
    known = (point.dist for point in points)
    return " and ".join(
        sorted(
            "an unnamed one" if dist is None else f"{dist.name} {dist.version}" for dist in known
        )
    )
