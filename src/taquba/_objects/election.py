"""Who of several processes opens a store: an election held through the store itself.

Only liveness depends on it. What keeps a store whole when two believe to be elected is the storage
engine's fencing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


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
