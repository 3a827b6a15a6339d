"""The contents of an inbox, for people and monitors."""

from __future__ import annotations

from contextlib import aclosing

from taquba._model import validate
from taquba._model.errors import StoreError
from taquba._model.records import InboxStats, RejectedBatch
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.location import StoreLocation
from taquba._objects.object_info import ObjectInfo
from taquba._queue.listings import MAX_PAGE


async def stats(location: StoreLocation) -> InboxStats:
    """Count batches; one request for every thousand of them."""
    inbox = await InboxObjects.open(location, fsync=False)
    waiting = [info async for page in inbox.batches() for info in page]
    return InboxStats(
        waiting=len(waiting),
        waiting_bytes=sum(info.size for info in waiting),
        oldest_at=min((info.modified_at for info in waiting), default=None),
        rejected=len([info async for page in inbox.rejected() for info in page]),
    )


async def rejected(location: StoreLocation, limit: int) -> list[RejectedBatch]:
    """The first batches that were put aside, and why."""
    validate.integer(limit, "limit", 1, MAX_PAGE)
    inbox = await InboxObjects.open(location, fsync=False)
    found: list[ObjectInfo] = []
    async with aclosing(inbox.rejected()) as pages:
        async for page in pages:
            found += page
            if len(found) >= limit:
                break
    return [
        RejectedBatch(info.key, info.size, info.modified_at, await _reason(inbox, info.key))
        for info in sorted(found)[:limit]
    ]


async def _reason(inbox: InboxObjects, name: str) -> str:
    """Why a batch was put aside; one that cannot be read does not hide the others."""
    try:
        return await inbox.reason(name)
    except StoreError as error:
        return f"its reason cannot be read now: {error}"
