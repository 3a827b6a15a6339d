"""The check of a store's write-ahead log; by reading only."""

from __future__ import annotations

import asyncio
from typing import Final

from taquba._engine.write_ahead_log import WriteAheadLog
from taquba._model.errors import StoreError
from taquba._objects.location import StoreLocation
from taquba.doctor._diagnosis import Check

_NAME: Final = "write-ahead log"
_PAUSES: Final = (0.2, 0.8)
"""Seconds between looks at an apparent problem: an owner may be writing and removing."""


async def check_log(location: StoreLocation) -> Check:
    """Whether the next owner finds and can read everything that was acknowledged."""
    log = await WriteAheadLog.connect(location)
    try:
        trouble = await log.trouble()
        for pause in _PAUSES:
            if trouble is None:
                break
            await asyncio.sleep(pause)
            trouble = await log.trouble()
    except StoreError as error:
        remedy = "check again; if this remains, restore the store"
        return Check(name=_NAME, ok=False, detail=str(error), remedy=remedy)
    finally:
        await log.close()
    if trouble is None:
        return Check(name=_NAME, ok=True, detail="it has neither gaps nor emptied files")
    return Check(name=_NAME, ok=False, detail=trouble.what, remedy=trouble.remedy)
