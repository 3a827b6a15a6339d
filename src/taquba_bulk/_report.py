"""The progress of a batch, and its final report."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from taquba import Clock
from taquba_bulk._costs import Costs
from taquba_bulk._records import ItemStatus

MOST_IDS: Final = 1000
"""Ids of failed items that a report names."""

_WINDOW_MS: Final = 30_000
_SAMPLES: Final = 60
_LEAST_FOR_SHARE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSnapshot:
    """The progress of a batch.

    Attributes:
        total: Number of inputs; None while it is not known.
        done: Items that have ended, in this run of the batch or before, with their rows written.
        succeeded: Those that succeeded.
        failed: Those that failed.
        in_flight: Items that were started, or submitted, and have not ended.
        rate: Items that end per second, over the last half minute, without those that had ended
            before.
        eta: Time until all have ended, at that rate; None if it is not known.
        cost: What the items that have ended cost, by metric.
    """

    total: int | None
    done: int
    succeeded: int
    failed: int
    in_flight: int
    rate: float
    eta: timedelta | None
    cost: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkReport:
    """How a batch has ended, or how far it came.

    Attributes:
        total: Inputs that were read. A run that was stopped may have read fewer than an earlier
            one; the report does not cover items whose inputs it did not reach.
        succeeded: Items that succeeded, in this run of the batch or before.
        failed: Items that failed.
        cancelled: Items that were cancelled.
        resumed: Those of them that had ended, with their rows written, before this run.
        complete: Whether every input was read and its item has ended.
        elapsed: How long this run took.
        cost: What the items that have ended cost, by metric, whenever that was.
        spent: The cost of paid calls, by metric of the batch's budget, whenever they were made; it
            includes calls of items that have not ended, and calls of which nobody knows whether
            they were made.
        failed_run_ids: Ids of items that failed; the first thousand.
    """

    total: int
    succeeded: int
    failed: int
    cancelled: int
    resumed: int
    complete: bool
    elapsed: timedelta
    cost: Mapping[str, float]
    spent: Mapping[str, float]
    failed_run_ids: tuple[str, ...]


class Tally:
    """Counts the items that have ended.

    Args:
        clock: Where time comes from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_ms = clock.monotonic_ms()
        self.expected: int | None = None
        """How many inputs there should be."""
        self.read = 0
        self.complete = False
        self._counts = dict.fromkeys(ItemStatus, 0)
        self._resumed = 0
        self._costs = Costs()
        self._failed_ids: list[str] = []
        self._samples: deque[tuple[int, int]] = deque([(self._started_ms, 0)], maxlen=_SAMPLES)

    def count(self, run_id: str, status: ItemStatus, costs: Costs, *, resumed: bool) -> None:
        """An item has ended."""
        self._counts[status] += 1
        self._costs.add_all(costs)
        if status is ItemStatus.FAILED and len(self._failed_ids) < MOST_IDS:
            self._failed_ids.append(run_id)
        if resumed:
            self._resumed += 1
            return
        now = self._clock.monotonic_ms()
        ended = self._done() - self._resumed
        if now - self._samples[-1][0] >= _WINDOW_MS // _SAMPLES:
            self._samples.append((now, ended))

    def exceeds(self, threshold: float) -> bool:
        """Whether more items have failed than allowed.

        A share refers to the number of inputs; if that is not known, to the items that have ended,
        and only once they are many or all.
        """
        failed = self._counts[ItemStatus.FAILED]
        if isinstance(threshold, int):
            return failed > threshold
        if self.complete:
            return failed > threshold * self._done()
        return failed > threshold * max(self.expected or self._done(), _LEAST_FOR_SHARE)

    def snapshot(self, in_flight: int) -> ProgressSnapshot:
        done = self._done()
        rate = self._rate()
        total = self.read if self.complete else self.expected
        eta = None
        if total is not None and (rate or done >= total):
            eta = timedelta(seconds=max(0, total - done) / rate if rate else 0)
        return ProgressSnapshot(
            total=total,
            done=done,
            succeeded=self._counts[ItemStatus.SUCCEEDED],
            failed=self._counts[ItemStatus.FAILED],
            in_flight=in_flight,
            rate=rate,
            eta=eta,
            cost=self._costs.amounts(),
        )

    def report(self, spent: Mapping[str, float]) -> BulkReport:
        return BulkReport(
            total=self.read,
            succeeded=self._counts[ItemStatus.SUCCEEDED],
            failed=self._counts[ItemStatus.FAILED],
            cancelled=self._counts[ItemStatus.CANCELLED],
            resumed=self._resumed,
            complete=self.complete,
            elapsed=timedelta(milliseconds=self._clock.monotonic_ms() - self._started_ms),
            cost=self._costs.amounts(),
            spent=spent,
            failed_run_ids=tuple(self._failed_ids),
        )

    def _done(self) -> int:
        return sum(self._counts.values())

    def _rate(self) -> float:
        now = self._clock.monotonic_ms()
        recent = [sample for sample in self._samples if sample[0] >= now - _WINDOW_MS]
        since, before = recent[0] if recent else self._samples[-1]
        elapsed = now - since
        return (self._done() - self._resumed - before) * 1000 / elapsed if elapsed > 0 else 0.0
