"""Metrics: one call for each commit, flush and answer, never for single jobs."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from opentelemetry.metrics import MeterProvider

from taquba._memory.gate import HasSuspects
from taquba._model.clock import Clock
from taquba._model.errors import TaqubaError
from taquba._model.keys import Op
from taquba._model.records import Counters
from taquba._rules.transitions import Change, Event
from taquba._store.transaction import Transaction
from taquba._telemetry import names
from taquba._telemetry.gauges import Gauges, OpenStore, gauges_of
from taquba._telemetry.guard import guarded
from taquba._telemetry.names import (
    ACK,
    CLAIM,
    DEAD_LETTER,
    ENQUEUE,
    NACK,
    PROCESS,
    SNOOZE,
    Operation,
)

Attributes = Mapping[str, str]

# The buckets that the messaging conventions advise, in seconds.
_OPERATION_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
)  # fmt: skip
# From milliseconds to a day: a job may wait for its time, or for its retries.
_LIFE_BUCKETS: Final = (
    0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600,
)  # fmt: skip
_ROW_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_BYTE_BUCKETS: Final = tuple(256 * 4**power for power in range(10))

_OPERATIONS: Final = {
    "enqueued": ENQUEUE,
    "claimed": CLAIM,
    "completed": ACK,
    "retried": NACK,
    "snoozed": SNOOZE,
    "dead_lettered": DEAD_LETTER,
}
_COUNTED: Final = {
    "completed": ("taquba.jobs.completed", "Jobs that were acknowledged."),
    "retried": ("taquba.jobs.retried", "Failed attempts after which the job is tried again."),
    "snoozed": ("taquba.jobs.snoozed", "Jobs put off by Snooze, without spending the attempt."),
    "dead_lettered": ("taquba.jobs.dead_lettered", "Jobs that became dead letters."),
    "lease_expired": ("taquba.jobs.reaped", "Claims that ended because their lease expired."),
    "interrupted": ("taquba.jobs.interrupted", "Claims that ended because their worker did."),
    "cancelled": ("taquba.jobs.cancelled", "Jobs that were removed before they were claimed."),
    "requeued": ("taquba.jobs.requeued", "Dead letters that were requeued."),
}


class Metrics:
    """The instruments of one open store."""

    def __init__(self, provider: MeterProvider, store: str, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._cache: dict[tuple[object, ...], Attributes] = {}
        meter = provider.get_meter(names.SCOPE, names.VERSION, names.SCHEMA_URL)
        self._operation_duration = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of enqueues, claims and settlements.",
            explicit_bucket_boundaries_advisory=_OPERATION_BUCKETS,
        )
        self._process_duration = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of handlers.",
            explicit_bucket_boundaries_advisory=_OPERATION_BUCKETS,
        )
        self._life = meter.create_histogram(
            "taquba.job.duration",
            unit="s",
            description="Time from a job's enqueue until it was completed or dead-lettered.",
            explicit_bucket_boundaries_advisory=_LIFE_BUCKETS,
        )
        self._counters = {
            event: meter.create_counter(name, unit="{job}", description=description)
            for event, (name, description) in _COUNTED.items()
        }
        self._counters["enqueued"] = meter.create_counter(
            "messaging.client.sent.messages", unit="{message}", description="Jobs enqueued."
        )
        self._counters["claimed"] = meter.create_counter(
            "messaging.client.consumed.messages", unit="{message}", description="Jobs claimed."
        )
        self._lease_renewals = meter.create_counter(
            "taquba.lease.renewals", unit="{renewal}", description="Leases that were extended."
        )
        self._commits = meter.create_counter(
            "taquba.commits", unit="{commit}", description="Atomic writes to the store."
        )
        self._commit_rows = meter.create_histogram(
            "taquba.commit.rows",
            unit="{row}",
            description="Rows put and deleted by a commit.",
            explicit_bucket_boundaries_advisory=_ROW_BUCKETS,
        )
        self._commit_size = meter.create_histogram(
            "taquba.commit.size",
            unit="By",
            description="Keys and values written by a commit.",
            explicit_bucket_boundaries_advisory=_BYTE_BUCKETS,
        )
        self._flushes = meter.create_counter(
            "taquba.flushes", unit="{flush}", description="Flushes that made commits durable."
        )
        self._gauges: Gauges = gauges_of(provider, meter)
        self._watched: OpenStore | None = None
        self._ended = 0

    @guarded
    def watch(
        self,
        counters: dict[str, Counters],
        pending: Callable[[], Mapping[str, HasSuspects]],
        requests: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        """Report depth, age and requests of the store until `close`."""
        self._watched = OpenStore(
            self._store,
            self._clock,
            counters,
            pending,
            requests,
            ended=lambda: self._ended,
            opening=sum(requests().values()),
        )
        self._gauges.add(self._watched)

    @guarded
    def close(self) -> None:
        if self._watched is not None:
            self._gauges.discard(self._watched)

    @guarded
    def committed(self, group: Sequence[Transaction], ops: Sequence[Op]) -> None:
        """`group` was written, as `ops`."""
        store = self._attributes(None)
        self._commits.add(1, store)
        self._commit_rows.record(len(ops), store)
        self._commit_size.record(sum(len(key) + len(value or b"") for key, value in ops), store)
        now = self._clock.time_ms()
        counts: dict[tuple[str, Event], int] = defaultdict(int)
        for transaction in group:
            for change in transaction.changes:
                queue = change.job.queue
                counts[queue, change.event] += 1
                if change.event == "completed":
                    self._job_ended(change, now, "completed")
                elif change.counts.dead > 0:
                    if change.event != "dead_lettered":
                        counts[queue, "dead_lettered"] += 1
                    self._job_ended(change, now, "dead_lettered")
        for (queue, event), count in counts.items():
            counter = self._counters.get(event)
            if counter is not None:
                conventional = event == "enqueued" or event == "claimed"
                operation = _OPERATIONS[event] if conventional else None
                counter.add(count, self._attributes(queue, operation))

    def _job_ended(self, change: Change, now: int, outcome: str) -> None:
        self._ended += 1
        seconds = max(0, now - change.job.enqueued_at) / 1000
        self._life.record(seconds, self._attributes(change.job.queue, outcome=outcome))

    @guarded
    def flushed(self, error: TaqubaError | None) -> None:
        """A flush ended."""
        self._flushes.add(1, self._attributes(None, None, error))

    @guarded
    def answered(self, transaction: Transaction, answer: asyncio.Future[None]) -> None:
        """The caller that submitted `transaction` got its result."""
        if answer.cancelled() or not transaction.changes:
            return
        # Effects come before the settlement that they belong to.
        last = transaction.changes[-1]
        operation = _OPERATIONS.get(last.event)
        if operation is None:
            return
        seconds = time.perf_counter() - transaction.began
        queue: str | None = last.job.queue
        if operation is ENQUEUE and any(
            change.job.queue != queue for change in transaction.changes
        ):
            queue = None
        attributes = self._attributes(queue, operation, answer.exception())
        self._operation_duration.record(seconds, attributes)

    @guarded
    def processed(self, queue: str, seconds: float, error: BaseException | None) -> None:
        """A handler ended."""
        self._process_duration.record(seconds, self._attributes(queue, PROCESS, error))

    @guarded
    def lease_renewed(self, queue: str) -> None:
        self._lease_renewals.add(1, self._attributes(queue))

    def _attributes(
        self,
        queue: str | None,
        operation: Operation | None = None,
        error: BaseException | None = None,
        outcome: str | None = None,
    ) -> Attributes:
        kind = None if error is None else names.error_type(error)
        known = self._cache.get((queue, operation, kind, outcome))
        if known is None:
            found = {
                names.SYSTEM: names.SCOPE,
                names.STORE: self._store,
                names.QUEUE: queue,
                names.OPERATION_NAME: operation and operation.name,
                names.OPERATION_TYPE: operation and operation.type,
                names.ERROR_TYPE: kind,
                names.OUTCOME: outcome,
            }
            known = {name: value for name, value in found.items() if value is not None}
            self._cache[queue, operation, kind, outcome] = known
        return known
