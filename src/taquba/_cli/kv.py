"""`kv get`, `kv scan`, `kv put`, `kv delete`: the caller-owned entries of a store."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from taquba import KvEntry
from taquba._cli import shapes
from taquba._cli.content import File, content
from taquba._cli.errors import CommandError, ExitCode
from taquba._cli.options import AsJson, Create, Limit, Store, TakeOver, command, group
from taquba._cli.output import (
    Column,
    bytes_text,
    note,
    print_json,
    print_json_line,
    print_table,
    say,
    size_text,
)
from taquba._cli.stores import owning, reading

app: Final = group("Inspect and change the key-value entries of a store.")

Key = Annotated[str, typer.Argument(metavar="KEY", help="The entry's key.")]

_PAGE: Final = 500
_COLUMNS: Final = (Column("KEY", "fold"), Column("SIZE", right=True), Column("VALUE", "cut"))


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


@command(
    app,
    "get",
    "taquba kv get -s ./data config/limit",
    "taquba kv get -s ./data blob > blob.bin",
)
async def get(key: Key, store: Store, as_json: AsJson = False) -> None:
    """Write the value of an entry to standard output, as it is."""
    async with reading(store) as reader:
        value = await reader.kv_get(_raw(key))
    if value is None:
        raise CommandError(f"no entry {key!r} in {store}", ExitCode.NOT_FOUND)
    if as_json:
        print_json(shapes.entry(KvEntry(_raw(key), value)))
    elif sys.stdout.isatty():
        say(bytes_text(value))
    else:
        sys.stdout.buffer.write(value)


@command(
    app,
    "scan",
    "taquba kv scan -s ./data",
    "taquba kv scan -s ./data config/ --json",
)
async def scan(
    store: Store,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Only keys that start with this.")
    ] = "",
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List entries in key order."""
    found: list[KvEntry[bytes]] = []
    cursor = None
    async with reading(store) as reader:
        while True:
            wanted = min(limit - len(found), _PAGE)
            page = await reader.kv_scan(_raw(prefix), cursor, wanted)
            found += page.entries
            cursor = page.next_cursor
            if as_json:
                for entry in page.entries:
                    print_json_line(shapes.entry(entry))
            if cursor is None or len(found) == limit:
                break
    if not as_json:
        print_table(
            _COLUMNS,
            [
                [bytes_text(entry.key), size_text(len(entry.value)), bytes_text(entry.value)]
                for entry in found
            ],
        )
    if cursor is not None:
        note(f"only the first {limit} are shown; --limit shows more")


@command(
    app,
    "put",
    "taquba kv put -s ./data config/limit 100",
    "taquba kv put -s ./data blob --file blob.bin",
)
async def put(
    key: Key,
    store: Store,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="The value as text, or - for standard input."),
    ] = None,
    file: File = None,
    create: Create = False,
    take_over: TakeOver = False,
    as_json: AsJson = False,
) -> None:
    """Write an entry, replacing an existing one."""
    body = content("value", value, file)
    async with owning(store, take_over=take_over, create=create) as owner:
        await owner.kv_put(_raw(key), body)
    if as_json:
        print_json({**shapes.content("key", _raw(key)), "size": len(body)})
    else:
        say(f"{size_text(len(body))} written")


@command(app, "delete", "taquba kv delete -s ./data config/limit")
async def delete(
    key: Key, store: Store, take_over: TakeOver = False, as_json: AsJson = False
) -> None:
    """Delete an entry."""
    async with owning(store, take_over=take_over) as owner:
        value = await owner.kv_get(_raw(key))
        if value is None:
            raise CommandError(f"no entry {key!r} in {store}", ExitCode.NOT_FOUND)
        await owner.kv_delete(_raw(key))
    if as_json:
        print_json({**shapes.content("key", _raw(key)), "size": len(value)})
    else:
        say("deleted")
