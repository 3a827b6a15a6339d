"""Queries that only the owner can answer, through its socket."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, cast

from taquba._line.client import CallFailed, Disconnected
from taquba._line.methods import GET_JOB, STATS, WAIT, as_record
from taquba._line.remote_owner import NoOwner, OwnerSocket
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
        return as_record(await self._ask(GET_JOB, job_id))

    async def stats(self, name: str) -> QueueStats:
        numbers = await self._ask(STATS, name)
        return QueueStats(*cast("list[int]", numbers))

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
            answer = await self._owner.call(seconds, WAIT, job_id, timeout_ms)
        except NoOwner as error:
            raise OwnerUnreachable(self._url) from error
        except Disconnected:
            return None
        except CallFailed as error:
            raise _failure(error) from error
        status, job = cast("tuple[str, object]", answer)
        return WaitOutcome(WaitStatus(status), as_record(job))

    async def _ask(self, method: str, argument: str) -> object:
        try:
            try:
                return await self._owner.call(_SECONDS, method, argument)
            except NoOwner:
                raise
            except Disconnected:
                # The owner of before has gone. Its successor may listen already.
                return await self._owner.call(_SECONDS, method, argument)
        except Disconnected as error:
            raise OwnerUnreachable(self._url) from error
        except CallFailed as error:
            raise _failure(error) from error


def _failure(error: CallFailed) -> StoreError:
    return StoreError(f"the owner could not answer: {error}")
