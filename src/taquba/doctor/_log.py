"""The check of a store's write-ahead log; by reading only."""

from __future__ import annotations

import asyncio
from typing import Final

from taquba._model.errors import StoreError
from taquba._store.location import StoreLocation
from taquba._store.wal import Damage, find_damage, hole_in, look_at_log
from taquba.doctor._diagnosis import Check

_NAME: Final = "write-ahead log"
_PAUSES: Final = (0.2, 0.8)
"""Seconds between looks at what seems to be wrong: an owner may be writing and removing."""


async def check_log(location: StoreLocation) -> Check:
    """Whether the next owner finds all that was acknowledged, and can read it again."""
    try:
        trouble = await _look(location)
        for pause in _PAUSES:
            if trouble is None:
                break
            await asyncio.sleep(pause)
            trouble = await _look(location)
    except StoreError as error:
        remedy = "look again; if it stays, restore the store"
        return Check(name=_NAME, ok=False, detail=str(error), remedy=remedy)
    if trouble is None:
        return Check(name=_NAME, ok=True, detail="it has neither holes nor emptied files")
    return Check(name=_NAME, ok=False, detail=trouble.what, remedy=trouble.remedy)


async def _look(location: StoreLocation) -> Damage | None:
    log = await look_at_log(location)
    return await find_damage(location, log) or hole_in(log)
