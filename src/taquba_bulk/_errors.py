"""What can go wrong with a batch, beside the errors of taquba and taquba_workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taquba import InvalidArgument, TaqubaError

if TYPE_CHECKING:
    from taquba_bulk._report import BulkReport


class DuplicateKey(InvalidArgument):
    """Two inputs of a batch have the same key.

    Attributes:
        key: The key.
        first: Position of the first input with it, from 0.
        second: Position of the other one.
    """

    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__(key, first, second)
        self.key = key
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"inputs {self.first} and {self.second} (counted from 0) have the same key "
            f"{self.key!r}: give each input its own key, or leave key= out to tell them "
            "apart by content"
        )


class FailureThresholdExceeded(TaqubaError):
    """More items have failed than the batch's `fail_threshold` allows; it was stopped.

    The running items have ended, and no further ones were started. To continue, run the batch again
    with a larger threshold; failed items stay failed.

    Attributes:
        report: How far the batch came.
    """

    def __init__(self, report: BulkReport, threshold: float) -> None:
        super().__init__(report, threshold)
        self.report = report
        self.threshold = threshold

    def __str__(self) -> str:
        return (
            f"{self.report.failed:,} of {self.report.total:,} items have failed, which is more "
            f"than fail_threshold={self.threshold} allows; the first: "
            f"{', '.join(self.report.failed_run_ids[:3])}"
        )


class BudgetExceeded(TaqubaError):
    """A paid call would have exceeded the batch's budget; the batch was stopped.

    The running items have ended, no further ones were started, and the item that tried to make the
    call has spent no attempt. To continue, run the batch again with a larger budget.

    Attributes:
        report: How far the batch came.
        metric: The metric whose budget did not suffice.
        limit: Its budget.
    """

    def __init__(self, report: BulkReport, metric: str, limit: float) -> None:
        super().__init__(report, metric, limit)
        self.report = report
        self.metric = metric
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the budget of {self.limit:g} {self.metric} does not allow another call: "
            f"{self.report.spent[self.metric]:g} are spent; "
            "run the batch again with a larger budget to continue"
        )
