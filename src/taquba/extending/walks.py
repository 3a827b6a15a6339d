"""Walks through all pages of a listing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, Self, TypeVar

__all__ = ["Page", "Pages", "pages"]


class Page(Protocol):
    """A page of a listing, such as `taquba.KvPage`."""

    @property
    def next_cursor(self) -> str | None:
        """Where the next page begins; None on the last one."""
        ...


P = TypeVar("P", bound=Page)


class Pages(Generic[P]):
    """The pages of a listing, made by `pages`; the loop may be left early."""

    def __init__(self, look: Callable[[str | None], Awaitable[P]]) -> None:
        self._look = look
        self._cursor: str | None = None
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> P:
        if self._is_over:
            raise StopAsyncIteration
        page = await self._look(self._cursor)
        self._cursor = page.next_cursor
        self._is_over = self._cursor is None
        return page


def pages(look: Callable[[str | None], Awaitable[P]]) -> Pages[P]:
    """Iterate over all pages, one after the other.

        async for page in pages(lambda cursor: queue.kv_scan("mine/", cursor)):
            ...

    Args:
        look: Reads the page that begins at a cursor; None means the beginning.
    """
    return Pages(look)
