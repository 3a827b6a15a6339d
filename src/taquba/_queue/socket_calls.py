"""What producers call through the owner's socket."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import astuple
from typing import TYPE_CHECKING, Final

from taquba._model.batch import MalformedBatch, shortened
from taquba._model.errors import QueueClosed, StoreFenced, TaqubaError
from taquba._queue.core import Core
from taquba._queue.ingesting import decode, ingest
from taquba._socket import methods
from taquba._socket.address import socket_path
from taquba._socket.server import Refused, SocketServer
from taquba._store.location import StoreLocation

if TYPE_CHECKING:
    from taquba._queue.queue import Queue

_log: Final = logging.getLogger(__name__)


async def serve_socket(queue: Queue, core: Core, location: StoreLocation) -> SocketServer | None:
    """Listen for the producers of this machine; None where that cannot be.

    They use the inbox then, which has the same guarantees.
    """
    try:
        path = await asyncio.to_thread(socket_path, location)
        return await SocketServer.listen(path, SocketCalls(queue, core))
    except OSError as error:
        _log.warning("producers of %s cannot connect, and use its inbox: %s", location.url, error)
        return None


class SocketCalls:
    """Carries out calls."""

    def __init__(self, queue: Queue, core: Core) -> None:
        self._queue = queue
        self._core = core

    async def __call__(self, method: str, arguments: list[object]) -> object:
        try:
            match method, arguments:
                case methods.BATCH, [str() as name, bytes() as batch]:
                    await ingest(self._core, await decode(name, batch))
                    return None
                case methods.GET_JOB, [str() as job_id]:
                    return methods.record_fields(await self._queue.get_job(job_id))
                case methods.STATS, [str() as name]:
                    return astuple(await self._queue.stats(name))
                case methods.WAIT, [str() as job_id, int() as timeout_ms]:
                    outcome = await self._queue.wait_for_completion(job_id, timeout_ms / 1000)
                    return outcome.status.value, methods.record_fields(outcome.job)
                case _:
                    raise Refused("UnknownCall", f"{method!r:.50} with {len(arguments)} arguments")
        except (StoreFenced, QueueClosed) as error:
            raise Refused(methods.GONE, str(error)) from error
        except (TaqubaError, MalformedBatch) as error:
            raise Refused(type(error).__name__, shortened(error)) from error
