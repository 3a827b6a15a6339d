"""The result of an `open`: it can be awaited, or used with ``async with``."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from taquba._model.errors import StoreError


class ClosedAtExit(ABC):
    """An open resource, which ``async with`` closes."""

    @abstractmethod
    async def close(self) -> None:
        """Close it. Idempotent."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


Opened = TypeVar("Opened", bound=ClosedAtExit)


async def _unless_cut_off(opening: Coroutine[Any, Any, Opened]) -> Opened:
    try:
        return await opening
    except asyncio.CancelledError as error:
        caller = asyncio.current_task()
        if caller is None or caller.cancelling():
            raise
        # Of a task that the opening waited for; this caller was not asked to stop.
        raise StoreError("a task of the opening was cancelled from outside: open again") from error


class Opening(Generic[Opened]):
    """``await`` it for the opened resource, or use it with ``async with``, which closes it."""

    def __init__(self, opening: Coroutine[Any, Any, Opened]) -> None:
        self._opening = opening
        self._opened: Opened | None = None

    def discard(self) -> None:
        """Do not open it: only the arguments should be checked."""
        self._opening.close()

    def __await__(self) -> Generator[Any, None, Opened]:
        return _unless_cut_off(self._opening).__await__()

    async def __aenter__(self) -> Opened:
        self._opened = await _unless_cut_off(self._opening)
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.close()
