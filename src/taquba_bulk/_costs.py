"""Costs: amounts by metric, added up without rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from taquba_bulk import _values

_UNIT: Final = 10**9
"""Amounts are kept as whole billionths, because sums of floats depend on their order."""


class Costs:
    """Amounts by metric."""

    __slots__ = ("_units",)

    def __init__(self, units: Mapping[str, int] | None = None) -> None:
        self._units = dict(units or {})

    @classmethod
    def of(cls, amounts: Mapping[str, float], what: str) -> Costs:
        """Amounts as a caller gives them."""
        costs = cls()
        for metric, amount in amounts.items():
            costs.add(metric, amount, what)
        return costs

    def add(self, metric: str, amount: float, what: str = "a cost") -> None:
        _values.name(metric, "the metric of a cost")
        checked = _values.amount(amount, f"{what}, {metric},")
        self._units[metric] = self._units.get(metric, 0) + round(checked * _UNIT)

    def add_all(self, others: Costs) -> None:
        for metric, units in others._units.items():
            self._units[metric] = self._units.get(metric, 0) + units

    def filled_up(self, assumed: Costs) -> Costs:
        """These, and those of `assumed` for metrics that are not recorded."""
        return Costs({**assumed._units, **self._units})

    def amounts(self) -> dict[str, float]:
        """As numbers, by metric in alphabetical order."""
        return {metric: units / _UNIT for metric, units in sorted(self._units.items())}

    def packed(self) -> dict[str, int]:
        """As the constructor takes them."""
        return self._units

    def units(self, metric: str) -> int:
        return self._units.get(metric, 0)
