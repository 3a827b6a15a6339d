"""Plain requests to an object store, beside the database, by somebody who will not wait long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from obstore.store import ObjectStore

from taquba._model.redaction import without_secrets
from taquba._objects.limits import OPERATION_TIMEOUT
from taquba._objects.location import StoreLocation
from taquba._objects.places import Place
from taquba._objects.problems import explain
from taquba._objects.repeating import ask
from taquba._objects.space import connect_objects

if TYPE_CHECKING:
    # Exists for type checkers only.
    from obstore.store import RetryConfig

T = TypeVar("T")

_TIMEOUT: Final = 8.0
"""Seconds after which a request has failed."""

_RETRIES: Final[RetryConfig] = {
    # A busy store gets another chance; a dead endpoint is told as such within a second or two.
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=_TIMEOUT - 2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1)},
}


class Client:
    """The objects at a location, its prefix included."""

    def __init__(self, location: StoreLocation, store: ObjectStore) -> None:
        self.location = location
        self.store = store
        self.place = Place(location)

    @classmethod
    async def connect(cls, location: StoreLocation) -> Client:
        """Connect to a bucket, or to a folder, which is made when it is missing.

        Raises:
            Problem: The settings of the environment cannot be used.
        """
        try:
            return cls(location, await asyncio.to_thread(connect_objects, location, _RETRIES))
        except Exception as error:
            raise explain(location, error, "connect") from without_secrets(error)

    @property
    def patience(self) -> float:
        """Seconds for a request of an opening.

        A store that has answered this process is slow at worst, and waited for as operations do.
        """
        return OPERATION_TIMEOUT if self.place.has_worked() else _TIMEOUT

    async def names(self, prefix: str | None = None) -> list[str]:
        """What is directly below a prefix: objects, and prefixes of more of them."""
        # Its other form returns a type of a library that is not installed.
        found = await self.store.list_with_delimiter_async(prefix)  # pyright: ignore[reportUnknownMemberType]
        return [*found["common_prefixes"], *(item["path"] for item in found["objects"])]

    async def ask(
        self, action: str, request: Callable[[], Awaitable[T]], seconds: float | None = None
    ) -> T:
        """Send a request, and again where it is refused, but do not wait long.

        Args:
            action: What it does, as a verb.
            request: Sends it.
            seconds: After which it has failed; 8 by default.

        Raises:
            Problem: The store failed, refused, or did not answer in time.
        """
        if seconds is None:
            seconds = _TIMEOUT
        try:
            async with asyncio.timeout(seconds):
                return await ask(self.place, action, request, seconds / 2)
        except Exception as error:
            raise explain(self.location, error, action) from without_secrets(error)
