"""The keys of a bucket, listed in spite of refusals, and of keys that the client cannot read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from obstore.exceptions import BaseError, InvalidPathError
from obstore.store import ObjectStore, S3Store

from taquba._model.own_tasks import only_it_was_cancelled
from taquba._objects.left_alone import leave_alone
from taquba._objects.location import StoreLocation
from taquba._objects.object_info import ObjectInfo, listed
from taquba._objects.signed_listing import SignedListing

if TYPE_CHECKING:
    from obstore import ListStream, ObjectMeta

_PAGE: Final = 1000


class BucketListing:
    """The objects below a prefix, whole segments, page by page."""

    def __init__(
        self,
        location: StoreLocation,
        store: ObjectStore,
        prefix: str,
        under_way: set[asyncio.Future[Sequence[ObjectMeta] | None]],
    ) -> None:
        """`under_way` holds the pages that are asked for, also where nobody waits any more."""
        self._location = location
        self._store = store
        self._prefix = prefix
        self._under_way = under_way
        self._pages: ListStream[Sequence[ObjectMeta]] | None = None
        self._last: str | None = None
        self._begun_behind: str | None = None
        self._signed: SignedListing | None = None

    async def next_page(self) -> list[ObjectInfo] | None:
        """The next page, which may be empty; None after the last one.

        May be called again when it failed. Raises the errors of the client.
        """
        if self._signed is not None:
            return await self._signed_page(self._signed)
        try:
            found = await self._client_page()
        except InvalidPathError:
            if not isinstance(self._store, S3Store) or self._location.bucket is None:
                raise
            below = [part for part in (self._location.path, self._prefix) if part]
            self._signed = SignedListing(
                self._location.bucket, "".join(f"{part}/" for part in below), self._whole_last()
            )
            return await self._signed_page(self._signed)
        if not found:
            return None
        behind = self._begun_behind
        # Some stores begin a later listing with the last key of the former, or with the first one.
        new = [info for info in found if behind is None or info["path"] > behind]
        self._last = max((info["path"] for info in new), default=self._last)
        return list(map(listed, new))

    async def _client_page(self) -> Sequence[ObjectMeta]:
        if self._pages is None:
            # A listing that failed is over: another one goes on behind what is known.
            self._begun_behind = self._last
            self._pages = self._store.list(  # pyright: ignore[reportUnknownMemberType] - its other form returns a type of a library that is not installed
                prefix=self._prefix, offset=self._last, chunk_size=_PAGE
            )
        # A listing that is dropped while its request is under way panics in obstore's
        # threads, so whoever stops waiting for a page leaves it to itself.
        page = asyncio.ensure_future(anext(self._pages, None))
        self._under_way.add(page)
        page.add_done_callback(self._ended)
        try:
            return await asyncio.shield(page) or ()
        except (BaseError, OSError, ValueError):
            self._pages = None
            raise
        except asyncio.CancelledError:
            if not only_it_was_cancelled(page):
                raise
            self._pages = None
            raise OSError("the listing was cancelled from outside") from None

    def _ended(self, page: asyncio.Future[Sequence[ObjectMeta] | None]) -> None:
        self._under_way.discard(page)
        if not page.cancelled():
            # Nobody may be left to hear of it.
            page.exception()

    def _whole_last(self) -> str | None:
        return None if self._last is None else f"{self._location.path}/{self._last}"

    async def _signed_page(self, listing: SignedListing) -> list[ObjectInfo] | None:
        page = await listing.next_page()
        if page is None:
            return None
        for key in page.passed_over:
            leave_alone(key, self._location.url, "no object of a store has such a key")
        top = f"{self._location.path}/"
        return [info._replace(key=info.key.removeprefix(top)) for info in page.entries]
