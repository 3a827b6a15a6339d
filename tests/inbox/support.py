"""An inbox, looked at from below the facade."""

from __future__ import annotations

import os

from taquba._model.batch import Batch, decode_batch
from taquba._store.inbox import Inbox
from taquba._store.location import StoreLocation


async def inbox_at(url: str | os.PathLike[str]) -> Inbox:
    return await Inbox.open(StoreLocation.parse(url), fsync=False)


async def opened_inbox(url: str | os.PathLike[str]) -> Inbox:
    """An inbox as an owner that is gone has left it."""
    inbox = await inbox_at(url)
    await inbox.put_up_sign()
    return inbox


async def names(inbox: Inbox) -> list[str]:
    """The batches that wait, in their order."""
    return sorted([info.key async for page in inbox.batches() for info in page])


async def waiting(inbox: Inbox) -> list[Batch]:
    """The batches that wait, in their order."""
    found: list[Batch] = []
    for name in await names(inbox):
        data = await inbox.get(name)
        assert data is not None
        found.append(decode_batch(name, data))
    return found
