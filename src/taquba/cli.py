"""For packages that add a command to `taquba`; needs the extra ``taquba[cli]``.

A distribution names a `typer.Typer` in the entry-point group ``taquba.cli``; the name of the entry
point becomes the command:

    [project.entry-points."taquba.cli"]
    crawl = "crawler._cli:app"

It is imported only when the command, or the list of all commands, is requested. `group` and
`command` declare commands like those of taquba itself, `reading` and `owning` open their store, and
the other names are options and functions that print. A `CommandError` ends a command with a message
and an exit code, and so does every `taquba.TaqubaError`.
"""

from taquba._cli.errors import CommandError, ExitCode
from taquba._cli.loading import load_object
from taquba._cli.options import (
    AsJson,
    JobId,
    Limit,
    PayloadUrl,
    QueueFilter,
    Store,
    TakeOver,
    Yes,
    command,
    duration_option,
    group,
)
from taquba._cli.output import (
    Column,
    moment_text,
    note,
    print_fields,
    print_json,
    print_json_line,
    print_table,
    relative,
    say,
    size_text,
)
from taquba._cli.shapes import Document, Json, json_moment
from taquba._cli.stores import owning, reading

__all__ = [
    "AsJson",
    "Column",
    "CommandError",
    "Document",
    "ExitCode",
    "JobId",
    "Json",
    "Limit",
    "PayloadUrl",
    "QueueFilter",
    "Store",
    "TakeOver",
    "Yes",
    "command",
    "duration_option",
    "group",
    "json_moment",
    "load_object",
    "moment_text",
    "note",
    "owning",
    "print_fields",
    "print_json",
    "print_json_line",
    "print_table",
    "reading",
    "relative",
    "say",
    "size_text",
]
