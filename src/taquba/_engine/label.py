"""What is at a location, found out by reading only.

Opening a SlateDB database for writing fences its owner, so it must be known before whose it is. A
small object beside the database, the label, says that it is taquba's and in which layout. Where
the label is missing, the database itself has to be opened for reading.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final, NamedTuple

from slatedb.uniffi import AdminBuilder

from taquba._engine.object_store import connect_engine
from taquba._engine.reads import bounded
from taquba._model import keys
from taquba._model.codec import UNREADABLE
from taquba._objects.client import Client
from taquba._objects.location import StoreLocation
from taquba._objects.problems import Problem, explain

LABEL: Final = "taquba.json"
_MANIFESTS: Final = "manifest"
"""Where SlateDB keeps the files without which there is no database."""


class Found(NamedTuple):
    """What was found.

    Attributes:
        database: There is a SlateDB database.
        layout: The layout that its label names; None without a label that can be read.
    """

    database: bool
    layout: int | None


async def look(location: StoreLocation) -> Found:
    """See what is there: two reads at the same time, which make nothing and disturb nobody.

    Raises:
        StoreError: The store cannot be reached or read; it says why, within seconds.
    """
    if location.in_memory:
        admin = AdminBuilder(location.path, connect_engine(location, read_only=True)).build()
        found = await bounded(admin.read_manifest(None), "looking for a store")
        return Found(database=found is not None, layout=None)
    try:
        if location.folder is not None:
            return await asyncio.to_thread(_look_into, location, location.folder)
        client = await Client.connect(location)
        seconds = client.patience
        manifests, label = await asyncio.gather(
            client.ask("list", lambda: client.names(_MANIFESTS), seconds),
            client.ask("read", lambda: _label(client), seconds),
        )
    except Problem as problem:
        raise problem.as_error(location) from problem
    return Found(bool(manifests), _layout(label))


async def write_label(location: StoreLocation) -> None:
    """Say that the database at a location is a taquba store of this layout.

    It need not be durable: a lost label costs the next opening some more reads.
    """
    label = json.dumps({"format": "taquba", "layout": keys.FORMAT_VERSION}).encode()
    try:
        if location.folder is not None:
            await asyncio.to_thread(_write_into, location, location.folder, label)
        else:
            client = await Client.connect(location)
            await client.ask("write", lambda: client.store.put_async(LABEL, label))
    except Problem as problem:
        raise problem.as_error(location) from problem


def _look_into(location: StoreLocation, folder: Path) -> Found:
    try:
        database = any((folder / _MANIFESTS).iterdir())
        label = (folder / LABEL).read_bytes() if (folder / LABEL).is_file() else None
    except (FileNotFoundError, NotADirectoryError):
        return Found(database=False, layout=None)
    except OSError as error:
        raise explain(location, error, "look for a store") from error
    return Found(database, _layout(label))


def _write_into(location: StoreLocation, folder: Path, label: bytes) -> None:
    try:
        (folder / LABEL).write_bytes(label)
    except OSError as error:
        raise explain(location, error, "write") from error


async def _label(client: Client) -> bytes | None:
    try:
        found = await client.store.get_async(LABEL)
        return bytes(await found.bytes_async())
    except FileNotFoundError:
        return None


def _layout(label: bytes | None) -> int | None:
    try:
        layout = json.loads(label or b"")["layout"]
    except UNREADABLE:
        return None
    return layout if isinstance(layout, int) else None
