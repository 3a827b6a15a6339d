"""Whether a store is served by a service, as seen by a process that may join it."""

from __future__ import annotations

import asyncio

from taquba._line.client import Disconnected
from taquba._line.remote_owner import OwnerSocket
from taquba._objects.location import StoreLocation


async def is_served(location: StoreLocation) -> bool:
    """Whether an owner lets other processes take part, or one that was elected is about to.

    Raises:
        StoreError: The store cannot be reached.
    """
    socket = OwnerSocket(location)
    try:
        await socket.connected()
    except Disconnected:
        return await _is_elected(location)
    finally:
        await socket.close()
    return True


async def _is_elected(location: StoreLocation) -> bool:
    # Each brings what only its kind of store needs.
    if location.folder is not None:
        from taquba._objects.election_in_folder import is_elected

        return await asyncio.to_thread(is_elected, location.folder)
    from taquba._objects.elected import was_elected

    return await was_elected(location)
