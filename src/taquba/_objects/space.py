"""Objects beside the database: large values, each written once as an object of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, ParamSpec, Self, TypeVar

from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, ObjectStore, S3Store

from taquba._model.errors import StoreError, TaqubaError
from taquba._model.redaction import without_secrets
from taquba._objects.bucket_listing import BucketListing
from taquba._objects.folder import remove_unfinished
from taquba._objects.folder_files import FolderFiles
from taquba._objects.limits import OPERATION_TIMEOUT
from taquba._objects.location import StoreLocation
from taquba._objects.object_info import ObjectInfo, listed
from taquba._objects.places import Place
from taquba._objects.problems import explain
from taquba._objects.repeating import PAUSES, ask

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import RetryConfig

P = ParamSpec("P")
T = TypeVar("T")

_SLOWEST_BYTES_PER_SECOND: Final = 256 * 1024
"""A transfer slower than this counts as one that hangs."""

_LOOKS: Final = (0.05, 0.15)
"""Seconds between reads of an object that a bucket does not find."""

_PAGE: Final = 1000
_CONCURRENT_DELETES: Final = 16
_CLOSING_SECONDS: Final = 5.0
_BULK_DELETE: Final = 1000
"""Keys that S3 deletes in one request."""

_shared_memory: dict[str, MemoryStore] = {}


def connect_objects(location: StoreLocation, retries: RetryConfig | None = None) -> ObjectStore:
    """The object store at a location, its prefix included. Makes a missing local folder.

    Credentials and endpoints come from the environment, as for the database; `retries` is how
    often and how long a bucket's requests are repeated. Raises the errors of the client.
    """
    if location.folder is not None:
        return LocalStore(location.folder, mkdir=True, automatic_cleanup=True)
    if location.bucket is None:
        name = location.url.removeprefix("memory://")
        return _shared_memory.setdefault(name, MemoryStore()) if name else MemoryStore()
    # Options of the HTTP client given here would replace those of the environment, so none are.
    match location.scheme:
        case "s3":
            return S3Store(location.bucket, prefix=location.path, retry_config=retries)
        case "gs":
            return GCSStore(location.bucket, prefix=location.path, retry_config=retries)
        case _:
            return AzureStore(location.bucket, prefix=location.path, retry_config=retries)


class ObjectSpace:
    """The objects below one location. Every call is bounded in time and raises `StoreError`."""

    def __init__(self, location: StoreLocation, *, fsync: bool) -> None:
        self._location = location
        self._place = Place(location)
        self._folder = location.folder
        self._files = None if location.folder is None else FolderFiles(location.folder, fsync=fsync)
        self._store: ObjectStore | None = None
        self.under_way = 0
        """Requests that were made and have not ended."""
        self._listing: set[asyncio.Future[Sequence[ObjectMeta] | None]] = set()

    @classmethod
    async def open(cls, location: StoreLocation, *, fsync: bool) -> Self:
        """Connect to a bucket, by the environment as it is now; sends no request.

        A folder is made when something is written to it.
        """
        space = cls(location, fsync=fsync)
        if location.folder is None:
            await space._connect()
        return space

    @property
    def url(self) -> str:
        """Where it is."""
        return self._location.url

    async def put(self, key: str, data: bytes) -> None:
        """Write an object; durable when it returns, except on a folder without fsync."""
        if self._files is not None:
            return await self._in_thread(f"write {key}", len(data), self._files.put, key, data)
        store = await self._connect()
        what = f"write {key}"

        async def put() -> object:
            # In one request: the parts of an upload that was cut off are in no listing, and are
            # billed.
            return await store.put_async(key, data, use_multipart=False)

        await self._ask(put, what, len(data))

    async def create(self, key: str, data: bytes) -> bool:
        """Write an object that is not there yet; False where another one is. Durable, as by `put`.

        "Exists already" is looked into: it is what a store says to a repeated write whose first
        answer got lost, but some say it as well when they are busy, and have stored nothing.
        """
        if self._files is not None:
            return await self._in_thread(f"write {key}", len(data), self._files.create, key, data)
        store = await self._connect()
        what = f"write {key}"

        async def create() -> bool:
            put = store.put_async(key, data, mode="create", use_multipart=False)
            return await _if_new(put)

        for pause in (*PAUSES, None):
            ours: bool | None = await self._ask(create, what, len(data)) or None
            if ours is None:
                found = await self._look(key)
                ours = None if found is None else found == data
            if ours is not None:
                return ours
            if pause is not None:
                await asyncio.sleep(pause)
        raise StoreError(
            f"{self._location.url}: {key} could not be written: the store says that it exists, "
            "and does not find it; try again later"
        )

    async def move(self, key: str, to: str) -> None:
        """Give an object another key, where it replaces what is there; one that is gone is fine.

        It is under one of the two keys at any time: where moving is copying, the copy is looked
        for before the original is removed.
        """
        if self._files is not None:
            return await self._in_thread(f"move {key}", 0, self._files.move, key, to)
        store = await self._connect()
        what = f"move {key}"
        if self._location.bucket is None:
            await self._ask(lambda: _if_there(store.rename_async(key, to)), what)
            return
        original = await self._ask(lambda: _if_there(store.head_async(key)), what)
        if original is None:
            return
        await self._ask(lambda: store.copy_async(key, to), what, original["size"])
        copy = await self._ask(lambda: _if_there(store.head_async(to)), what)
        if copy is None or copy["size"] != original["size"]:
            raise StoreError(
                f"{self._location.url}: the copy of {key} is not there yet; try again later"
            )
        await self.delete([key])

    async def get(self, key: str) -> bytes | None:
        """The object's content, or None if there is none.

        A bucket may not find an object for a moment: it is asked several times before that counts.
        """
        if self._files is not None:
            return await self._in_thread(f"read {key}", 0, self._files.get, key)
        found = await self._look(key)
        if self._location.bucket is not None:
            for pause in _LOOKS:
                if found is not None:
                    break
                await asyncio.sleep(pause)
                found = await self._look(key)
        return found

    async def _look(self, key: str) -> bytes | None:
        store = await self._connect()
        what = f"read {key}"
        found = await self._ask(lambda: _if_there(store.get_async(key)), what)
        if found is None:
            return None
        return bytes(await self._bounded(found.bytes_async(), what, found.meta["size"]))

    async def delete(self, keys: Collection[str]) -> None:
        """Remove objects; those that are gone already are fine."""
        if not keys:
            return
        if self._files is not None:
            return await self._in_thread("delete objects", 0, self._files.delete, keys)
        store = await self._connect()
        if isinstance(store, S3Store):
            in_order = list(keys)
            for start in range(0, len(in_order), _BULK_DELETE):
                some = in_order[start : start + _BULK_DELETE]
                await self._ask(partial(_delete, store, some), "delete objects")
            return
        limit = asyncio.Semaphore(_CONCURRENT_DELETES)

        async def delete(key: str) -> None:
            async with limit:
                await self._ask(partial(_delete, store, key), f"delete {key}")

        await asyncio.gather(*map(delete, keys))

    async def list(self, prefix: str, *, flat: bool = False) -> AsyncGenerator[list[ObjectInfo]]:
        """Objects whose key starts with `prefix`, whole segments, in batches.

        With `flat`, a local folder's own files only, and not those of folders in it.
        """
        if self._files is not None:
            files = self._files.files(prefix, flat=flat)
            try:
                while some := await self._in_thread(f"list {prefix}", 0, _some, files):
                    yield some
            finally:
                # A thread that is still in it, on a disk that hangs, keeps it.
                with contextlib.suppress(ValueError):
                    files.close()
            return
        store = await self._connect()
        if isinstance(store, MemoryStore):
            # Nothing to wait for. The client sets itself up at its first request that is awaited:
            # a child that is forked meanwhile would wait for the end of that forever.
            for metas in store.list(  # pyright: ignore[reportUnknownMemberType] - its other form returns a type of a library that is not installed
                prefix, chunk_size=_PAGE
            ):
                yield list(map(listed, metas))
            return
        listing = BucketListing(self._location, store, prefix, self._listing)
        while (page := await self._ask(listing.next_page, f"list {prefix}")) is not None:
            yield page

    async def check_place(self) -> None:
        """Raise `StoreError` where the bucket or folder itself is not there."""
        folder = self._folder
        if folder is None:
            async with aclosing(self.list("")) as pages:
                await anext(pages, None)
        elif not await self._in_thread("look", 0, folder.is_dir):
            raise StoreError(
                f"{folder} does not exist: mount or restore it, or open the queue with the "
                "payload_url that was used before"
            )

    async def remove_unfinished(self, prefix: str, seconds: float) -> None:
        """Remove what a process that died while it wrote has left in a local folder.

        Args:
            prefix: Whole segments of the keys that it was writing.
            seconds: For how long nobody has written to it.
        """
        if self._folder is not None:
            await self._in_thread("tidy up", 0, remove_unfinished, self._folder / prefix, seconds)

    async def close(self) -> None:
        """Give listings that were abandoned a moment to end."""
        if self._listing:
            await asyncio.wait(set(self._listing), timeout=_CLOSING_SECONDS)

    async def _in_thread(
        self, what: str, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._bounded(asyncio.to_thread(work, *args, **kwargs), what, size)

    async def _connect(self) -> ObjectStore:
        if self._store is None:
            # Shared memory must be one store: several first calls may come here at once.
            store = await self._bounded(
                asyncio.to_thread(connect_objects, self._location), "connect"
            )
            self._store = self._store or store
        return self._store

    async def _ask(self, request: Callable[[], Awaitable[T]], what: str, size: int = 0) -> T:
        """Send a request; `what` begins with its verb. A bucket is asked again if it refuses."""
        if self._location.bucket is None:
            return await self._bounded(request(), what, size)
        action = what.partition(" ")[0]
        return await self._bounded(ask(self._place, action, request), what, size)

    async def _bounded(self, operation: Awaitable[T], what: str, size: int = 0) -> T:
        seconds = OPERATION_TIMEOUT + size / _SLOWEST_BYTES_PER_SECOND
        self.under_way += 1
        try:
            async with asyncio.timeout(seconds):
                return await operation
        except TimeoutError:
            raise StoreError(
                f"{self._location.url} did not answer within {seconds:g} s ({what})"
            ) from None
        except TaqubaError:
            raise
        except Exception as error:
            # Panics of the client's have a class that cannot be named.
            raise self._failed(what, error) from without_secrets(error)
        finally:
            self.under_way -= 1

    def _failed(self, what: str, error: Exception) -> StoreError:
        problem = explain(self._location, error, what)
        # A disk may have room again.
        permanent = problem.permanent and self._folder is None
        return StoreError(
            f"{self._location.url}: {problem.what}; {problem.remedy}", permanent=permanent
        )


def _some(files: Iterator[ObjectInfo]) -> list[ObjectInfo]:
    return list(islice(files, _PAGE))


async def _if_new(request: Awaitable[object]) -> bool:
    """Whether a conditional creation made the object."""
    try:
        await request
    except (AlreadyExistsError, PreconditionError):
        return False
    return True


async def _delete(store: ObjectStore, keys: str | Sequence[str]) -> bool | None:
    """True when the objects are removed; None where a single one was gone before."""
    if not isinstance(keys, str):
        # A request for many says of none that it was gone: what is not found is the bucket.
        await store.delete_async(keys)
        return True
    # Twice: what is not found once may be there all the same, and would stay.
    for _ in range(2):
        try:
            await store.delete_async(keys)
        except FileNotFoundError:
            continue
        return True
    return None


async def _if_there(request: Awaitable[T]) -> T | None:
    """The answer to a request on one object, or None if there is no such object.

    If any object would do, a missing one is an error: the bucket itself is missing.
    """
    try:
        return await request
    except FileNotFoundError:
        return None
