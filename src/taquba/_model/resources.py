"""What an `open` returns: something to ``await``, or to use with ``async with``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar


class ClosedAtExit(ABC):
    """Something open, which ``async with`` closes."""

    @abstractmethod
    async def close(self) -> None:
        """Close it; harmless when it is closed already."""

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


class Opening(Generic[Opened]):
    """``await`` it for the opened thing, or use it with ``async with``, which closes it."""

    def __init__(self, opening: Coroutine[Any, Any, Opened]) -> None:
        self._opening = opening
        self._opened: Opened | None = None

    def discard(self) -> None:
        """Do not open it: only its arguments were to be checked."""
        self._opening.close()

    def __await__(self) -> Generator[Any, None, Opened]:
        return self._opening.__await__()

    async def __aenter__(self) -> Opened:
        self._opened = await self._opening
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.close()
