"""Which of several processes opens a store: an election held through the store itself.

Only liveness depends on it. If two processes believe that they are elected, the storage engine's
fencing keeps the store consistent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class Election(ABC):
    """One process that stands for election, from `win` to `resign`, any number of times."""

    @abstractmethod
    async def win(self) -> None:
        """Wait until this process is elected.

        Raises:
            StoreError: The store does not support elections.
        """

    @abstractmethod
    async def lost(self) -> None:
        """Wait until another process is elected instead of this one."""

    @abstractmethod
    async def resign(self) -> None:
        """Withdraw, and let others be elected at once. Idempotent."""
