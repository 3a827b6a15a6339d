"""The contents of a location, and whether an owner seems to be running; by reading only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from taquba._model import keys
from taquba._model.errors import IncompatibleStore, StoreNotInitialized, TaqubaError
from taquba._model.records import OwnerSigns
from taquba._objects.client import Client
from taquba._objects.location import StoreLocation
from taquba._objects.probe import PREFIX
from taquba._objects.problems import Problem
from taquba._queue.reader import QueueReader
from taquba.doctor._diagnosis import Check, Contents

_POLL_SECONDS: Final = 0.2
_OWNER_PATIENCE_SECONDS: Final = 1.5
"""How long a store is watched for signs of an owner, if there is no surer evidence."""


async def find_contents(
    location: StoreLocation,
) -> tuple[Contents | None, OwnerSigns | None, Check]:
    """The contents, whether a store has a living owner, and a check about the contents."""
    contents: Contents | None
    try:
        async with QueueReader.open(
            location.url, mode="follow_latest", poll_interval=_POLL_SECONDS
        ) as reader:
            owner = await reader.detect_owner(_OWNER_PATIENCE_SECONDS)
    except StoreNotInitialized:
        return await _find_objects(location)
    except IncompatibleStore as error:
        contents = "foreign database" if error.layout is None else "other layout"
        return contents, None, _contents(str(error), "use the location of a store, or an empty one")
    except TaqubaError as error:
        return (
            None,
            None,
            _contents(str(error), "check again; if this remains, restore the store"),
        )
    return "store", owner, _contents(f"a taquba store of layout {keys.FORMAT_VERSION}")


def _contents(detail: str, remedy: str | None = None) -> Check:
    return Check(name="contents", ok=remedy is None, detail=detail, remedy=remedy)


async def _find_objects(location: StoreLocation) -> tuple[Contents | None, None, Check]:
    """The contents when there is no database."""
    try:
        name = await _first_object(location)
    except Problem as problem:
        return None, None, _contents(problem.what, problem.remedy)
    if name is None:
        return "nothing", None, _contents("nothing yet")
    detail = f"there is no store, but there are other objects, such as {name}"
    return "other objects", None, _contents(detail, "give the store a location of its own")


async def _first_object(location: StoreLocation) -> str | None:
    if location.in_memory:
        return None
    if location.folder is not None:
        return await asyncio.to_thread(_first_entry, location.folder)
    client = await Client.connect(location)
    names = await client.ask("list", client.names)
    return next((name for name in names if not name.startswith(PREFIX)), None)


def _first_entry(folder: Path) -> str | None:
    names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else iter(())
    return next((name for name in names if not name.startswith(PREFIX)), None)
