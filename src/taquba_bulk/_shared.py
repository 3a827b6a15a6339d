"""The state that the items of a batch share while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from taquba import Store
from taquba_bulk._budget import Budget
from taquba_bulk._cache import Cache
from taquba_bulk._rates import Rate, RateLimits
from taquba_bulk._records import keys_of
from taquba_bulk._stopping import Attempts


class Shared:
    """Budget, rate limits and cache of a batch, and whether it is being stopped.

    Args:
        store: An open handle on the store.
        queue_name: The batch.
        rate: Rate limits by key.
        budget: The budget by metric.
    """

    def __init__(
        self,
        store: Store,
        queue_name: str,
        rate: Mapping[str, Rate] | None,
        budget: Mapping[str, float] | None,
    ) -> None:
        self.rates = RateLimits(store.clock, rate)
        self.budget = Budget(store, keys_of(queue_name).budget, budget)
        self.cache = Cache(store)
        self.attempts = Attempts()
        self.stopping = False

    async def begin(self, on_exceeded: Callable[[str], None]) -> None:
        """A pass begins; `on_exceeded` gets the metric when a call cannot be paid."""
        await self.budget.open(on_exceeded)
        self.rates.halt(False)
        self.stopping = False

    def halt(self) -> None:
        """Begin no further attempts, and end the waits for rate limits."""
        self.stopping = True
        self.rates.halt(True)
