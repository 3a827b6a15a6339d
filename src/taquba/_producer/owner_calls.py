"""Queries that only the owner can answer, through its socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final, cast

from taquba._line.client import CallFailed, Disconnected
from taquba._line.methods import STORE
from taquba._line.remote_owner import NoOwner, OwnerSocket
from taquba._line.values import dump_arguments, load_result
from taquba._model.errors import OwnerUnreachable, StoreError
from taquba._model.records import JobRecord, QueueStats, WaitOutcome, WaitStatus

_SECONDS: Final = 35.0
"""Longer than an owner waits for its store."""

_PAUSE_SECONDS: Final = 0.2


class Asking:
    """Queries the owner of a store on this machine."""

    def __init__(self, url: str, owner: OwnerSocket) -> None:
        self._url = url
        self._owner = owner

    async def get_job(self, job_id: str) -> JobRecord | None:
        return cast("JobRecord | None", await self._ask("get_job", job_id=job_id))

    async def stats(self, name: str) -> QueueStats:
        return cast("QueueStats", await self._ask("stats", queue=name))

    async def wait_for_completion(self, job_id: str, timeout_ms: int) -> WaitOutcome:
        """Wait; if the owner ends meanwhile, wait with its successor."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        if (outcome := await self._wait(job_id, timeout_ms)) is not None:
            return outcome
        while (left := deadline - loop.time()) > 0:
            await asyncio.sleep(min(_PAUSE_SECONDS, left))
            left_ms = max(0, round(1000 * (deadline - loop.time())))
            with contextlib.suppress(OwnerUnreachable):
                if (outcome := await self._wait(job_id, left_ms)) is not None:
                    return outcome
        return WaitOutcome(WaitStatus.TIMED_OUT)

    async def _wait(self, job_id: str, timeout_ms: int) -> WaitOutcome | None:
        """Wait with one owner; None when it has gone."""
        seconds = timeout_ms / 1000 + _SECONDS
        try:
            asked = {"job_id": job_id, "timeout": timeout_ms / 1000}
            return cast("WaitOutcome", await self._call(seconds, "wait_for_completion", asked))
        except NoOwner as error:
            raise OwnerUnreachable(self._url) from error
        except Disconnected:
            return None
        except CallFailed as error:
            raise _failure(error) from error

    async def _ask(self, method: str, **arguments: object) -> object:
        try:
            try:
                return await self._call(_SECONDS, method, arguments)
            except NoOwner:
                raise
            except Disconnected:
                # The owner of before has gone. Its successor may listen already.
                return await self._call(_SECONDS, method, arguments)
        except Disconnected as error:
            raise OwnerUnreachable(self._url) from error
        except CallFailed as error:
            raise _failure(error) from error

    async def _call(self, seconds: float, method: str, arguments: Mapping[str, object]) -> object:
        answer = await self._owner.call(seconds, STORE, method, dump_arguments(arguments))
        return load_result(cast("bytes", answer))


def _failure(error: CallFailed) -> StoreError:
    return StoreError(f"the owner could not answer: {error}")
