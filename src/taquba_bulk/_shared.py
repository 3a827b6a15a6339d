"""The state that the items of a batch share while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from taquba import Store
from taquba_bulk._budget import Budget
from taquba_bulk._cache import Cache
from taquba_bulk._rates import Limit, Rate, RateLimits
from taquba_bulk._records import keys_of
from taquba_bulk._stopping import Attempts


class Limits(NamedTuple):
    """What all processes that work on a batch keep to together."""

    budget: Mapping[str, int]
    """How much may be spent, by metric, in billionths."""
    rates: Mapping[str, Limit]


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
        keys = keys_of(queue_name)
        self.rates = RateLimits(store, keys.rates, rate)
        self.budget = Budget(store, keys.budget, budget)
        self.cache = Cache(store)
        self.attempts = Attempts()
        self.stopping = False

    @property
    def limits(self) -> Limits:
        """The limits that this process was given."""
        return Limits(self.budget.units, self.rates.own)

    async def begin(
        self, run: str, on_exceeded: Callable[[str], None], limits: Limits | None = None
    ) -> None:
        """Begin to work on a run of the batch.

        Args:
            run: The run.
            on_exceeded: Gets the metric when a call cannot be paid.
            limits: The limits of the process that runs the batch, if it is another.
        """
        budget, rates = self.limits if limits is None else limits
        await self.budget.open(run, on_exceeded, budget)
        self.rates.join(rates)
        self.rates.halt(False)
        self.stopping = False

    def halt(self) -> None:
        """Begin no further attempts, and end the waits for rate limits and other processes."""
        self.stopping = True
        self.rates.halt(True)
        self.budget.halt()
