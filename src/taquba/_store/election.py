"""Who of several processes opens a store: an election held through the store itself.

Only liveness depends on it. What keeps a store whole when two believe to be elected is the storage
engine's fencing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from taquba._model.errors import InvalidArgument

if TYPE_CHECKING:
    from taquba._store.location import StoreLocation


class Election(ABC):
    """One process that stands for election, from `win` to `resign`, any number of times."""

    @abstractmethod
    async def win(self) -> None:
        """Wait until this process is elected.

        Raises:
            StoreError: The store is not one that elections can be held on.
        """

    @abstractmethod
    async def lost(self) -> None:
        """Wait until somebody else was elected instead of this process."""

    @abstractmethod
    async def resign(self) -> None:
        """Stand no more, and let others be elected at once. Idempotent."""


def stand_for(location: StoreLocation, takeover_seconds: float) -> Election:
    """A candidate for the ownership of the store at a location.

    Args:
        location: Where the store is, or will be.
        takeover_seconds: For how long an elected process must give no sign of life before others
            take its place, where the operating system does not tell them.
    """
    # Each brings what only its kind of store needs.
    if location.folder is not None:
        from taquba._store.election_in_folder import FolderElection

        return FolderElection(location, location.folder)
    if location.in_memory:
        raise InvalidArgument(
            f"{location.url} is in the memory of this process, which no other can share; "
            "use a folder or a bucket"
        )
    from taquba._store.election_in_bucket import BucketElection

    return BucketElection(location, takeover_seconds)
