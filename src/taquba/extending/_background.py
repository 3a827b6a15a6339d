"""Loops that have exclusive queues, and run for the length of a block."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from functools import partial
from types import TracebackType
from typing import Final, Self

from taquba._model.errors import InvalidArgument
from taquba._model.own_tasks import was_cancelled
from taquba._model.redaction import without_secrets

_log: Final = logging.getLogger(__name__)


class RunsInBackground(ABC):
    """An object whose `run` continues for the length of its ``async with`` block.

    What ends `run` early is raised where the block ends (at once, where calls in the block would
    wait for `run` in vain: the block is cancelled then), or logged where an error of the block is
    on its way already. A block that is cancelled cancels `run`.
    """

    _running: asyncio.Task[None] | None = None
    _block: asyncio.Task[object] | None = None
    """The task of the block, once it was cancelled because `run` has failed."""

    @abstractmethod
    async def run(self, shutdown: asyncio.Event | None = None) -> None:
        """Run until `shutdown` is set."""

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise InvalidArgument(
                f"this {type(self).__name__} is already running; make one per `async with`"
            )
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(
            self.run(self._stop), name=f"taquba-{type(self).__name__}"
        )
        self._running.add_done_callback(partial(self._run_ended, asyncio.current_task()))
        return self

    def _is_heard_of(self, failure: BaseException) -> bool:
        """Whether calls in the block raise by themselves when `run` has ended with `failure`.

        Where they would wait for ever, the block is cancelled, and raises the failure at its end.
        """
        del failure
        return True

    def _run_ended(self, block: asyncio.Task[object] | None, running: asyncio.Task[None]) -> None:
        if self._stop.is_set() or block is None:
            return
        failure = was_cancelled(running) if running.cancelled() else running.exception()
        if failure is not None and not self._is_heard_of(failure) and block.cancel():
            self._block = block

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._running is not None
        running, self._running = self._running, None
        self._stop.set()
        block, self._block = self._block, None
        if (
            block is not None
            and block.uncancel() == 0
            and isinstance(error, asyncio.CancelledError)
        ):
            # The cancellation was this one's own.
            error = None
        cancels = isinstance(error, asyncio.CancelledError)
        if cancels:
            # A caller that cancels wants to leave now.
            running.cancel()
        await asyncio.wait([running])
        failure: BaseException | None
        if not running.cancelled():
            failure = running.exception()
        else:
            failure = None if cancels else was_cancelled(running)
        if failure is not None and error is not None:
            shown = without_secrets(failure)
            _log.error("%s has ended with an error", type(self).__name__, exc_info=shown)
        elif failure is not None:
            raise failure
