"""What producers call through the owner's socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, Final

from taquba._model import validate
from taquba._model.batch import MalformedBatch, shortened
from taquba._model.errors import QueueClosed, StoreFenced, TaqubaError
from taquba._queue import operating
from taquba._queue.core import Core
from taquba._queue.ingesting import decode, ingest
from taquba._socket import methods
from taquba._socket.address import socket_path
from taquba._socket.server import Large, Refused, SocketServer
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
        with _as_refusals():
            match method, arguments:
                case methods.BATCH, [str() as name, bytes() as batch]:
                    await ingest(self._core, await decode(name, batch))
                    return None
                case methods.GET_JOB, [str() as job_id]:
                    return Large(partial(self._record, job_id))
                case methods.STATS, [str() as name]:
                    return astuple(await self._queue.stats(name))
                case methods.WAIT, [str() as job_id, int() as timeout_ms]:
                    timeout_ms = validate.duration_ms(timeout_ms / 1000, "timeout")
                    self._core.check()
                    outcome = await operating.wait_for_completion(
                        self._core, validate.job_id(job_id), timeout_ms, with_job=False
                    )
                    status = outcome.status.value
                    if not outcome.completed:
                        return status, None
                    return Large(partial(self._completed, status, job_id))
                case _:
                    raise Refused("UnknownCall", f"{method!r:.50} with {len(arguments)} arguments")

    async def _record(self, job_id: str) -> object:
        with _as_refusals():
            return methods.record_fields(await self._queue.get_job(job_id))

    async def _completed(self, status: str, job_id: str) -> object:
        return status, await self._record(job_id)


@contextmanager
def _as_refusals() -> Generator[None]:
    """Turn what a call of a queue raises into what goes over the socket."""
    try:
        yield
    except (StoreFenced, QueueClosed) as error:
        raise Refused(methods.GONE, str(error)) from error
    except (TaqubaError, MalformedBatch) as error:
        raise Refused(type(error).__name__, shortened(error)) from error
