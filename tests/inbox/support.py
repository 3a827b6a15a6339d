"""An inbox, looked at from below the facade."""

from __future__ import annotations

import os

from ulid import ULID

from taquba import EnqueueRequest, Queue
from taquba._model import keys
from taquba._model.batch import Batch, decode_batch, encode_batch, encode_request
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.location import StoreLocation
from tests.queue.support import rows

MARKS = (keys.MARK, keys.MARK_TIME)


async def inbox_at(url: str | os.PathLike[str]) -> InboxObjects:
    return await InboxObjects.open(StoreLocation.parse(url), fsync=False)


async def opened_inbox(url: str | os.PathLike[str]) -> InboxObjects:
    """An inbox as an owner that is gone has left it."""
    inbox = await inbox_at(url)
    await inbox.put_up_sign()
    return inbox


async def put(inbox: InboxObjects, *requests: EnqueueRequest) -> str:
    """Put a batch there, as another producer would; its name."""
    name = str(ULID())
    encoded = [encode_request(request, request.job_id or str(ULID()), 0) for request in requests]
    await inbox.put(name, encode_batch(0, encoded))
    return name


async def names(inbox: InboxObjects) -> list[str]:
    """The batches that wait, in their order."""
    return sorted([info.key async for page in inbox.batches() for info in page])


async def contents(inbox: InboxObjects) -> dict[str, bytes]:
    """The bytes of the batches that wait, by their names."""
    found = {name: await inbox.get(name) for name in await names(inbox)}
    return {name: data for name, data in found.items() if data is not None}


async def waiting(inbox: InboxObjects) -> list[Batch]:
    """The batches that wait, in their order."""
    return [decode_batch(name, data) for name, data in (await contents(inbox)).items()]


async def rejected(inbox: InboxObjects) -> dict[str, str]:
    """Why each batch was put aside."""
    return {
        info.key: await inbox.reason(info.key) async for page in inbox.rejected() for info in page
    }


async def marks(queue: Queue) -> int:
    """Rows that tell what was taken before."""
    return sum(key.startswith(MARKS) for key in await rows(queue))
