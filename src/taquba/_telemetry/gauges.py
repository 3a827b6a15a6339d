"""Values that are read from open stores when an exporter asks, on the exporter's thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from opentelemetry.metrics import (
    CallbackOptions,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from taquba._memory.gate import HasSuspects
from taquba._model.clock import Clock
from taquba._model.records import Counters, Job
from taquba._telemetry import names

_STATES: Final = ("pending", "scheduled", "claimed", "dead")


@dataclass(frozen=True, eq=False)
class OpenStore:
    """The values that the gauges read.

    The gauges run on another thread than the event loop, so each of these is read with one call
    that the interpreter does not interrupt, or is never changed.
    """

    name: str
    clock: Clock
    counters: dict[str, Counters]
    pending: Callable[[], Mapping[str, HasSuspects]]
    requests: Callable[[], Mapping[tuple[str, str], int]]
    """Requests to the object store so far, per component and kind."""
    ended: Callable[[], int]
    """Jobs that were completed or dead-lettered since the store was opened."""
    opening: int
    """Requests that opening the store took."""
    pid: int = field(default_factory=os.getpid)

    def depths(self) -> Iterator[Observation]:
        for queue, counters in list(self.counters.items()):
            for state in _STATES:
                attributes = {**self._attributes(queue), names.STATE: state}
                yield Observation(getattr(counters, state), attributes)

    def ages(self) -> Iterator[Observation]:
        now = self.clock.time_ms()
        for queue, state in self.pending().items():
            window = state.window
            jobs = [*window.jobs(), *state.suspects.values()]
            waiting = [ready_at(job, now) for job in jobs]
            if waiting:
                age = max(0, now - min(waiting)) / 1000
            elif window.complete:
                age = 0.0
            else:
                # The backlog was not read since the store was opened.
                continue
            yield Observation(age, self._attributes(queue))

    def store_requests(self) -> Iterator[Observation]:
        for (component, request), count in self.requests().items():
            yield Observation(
                count,
                {names.STORE: self.name, names.COMPONENT: component, names.REQUEST: request},
            )

    def requests_per_thousand_jobs(self) -> Iterator[Observation]:
        ended = self.ended()
        if ended:
            requests = sum(self.requests().values()) - self.opening
            yield Observation(requests * 1000 / ended, {names.STORE: self.name})

    def _attributes(self, queue: str) -> dict[str, str]:
        return {names.SYSTEM: names.SCOPE, names.QUEUE: queue, names.STORE: self.name}


def ready_at(job: Job, now: int) -> int:
    """Since when a pending job could have been claimed, according to its record; ms."""
    due = job.run_at if job.run_at is not None and job.run_at <= now else 0
    return max(job.enqueued_at, due, job.woken_at or 0, job.claimed_at or 0)


class Gauges:
    """The observable instruments of a meter provider, shared by all stores that report to it.

    A meter keeps an observable instrument forever, and ignores the callbacks of one that is made a
    second time.
    """

    def __init__(self, meter: Meter) -> None:
        self._stores: set[OpenStore] = set()
        meter.create_observable_gauge(
            "taquba.queue.depth",
            [self._observe(OpenStore.depths)],
            unit="{job}",
            description="Jobs of a queue in a state.",
        )
        meter.create_observable_gauge(
            "taquba.queue.oldest_pending.age",
            [self._observe(OpenStore.ages)],
            unit="s",
            description="How long the oldest pending job has been ready to be claimed.",
        )
        meter.create_observable_counter(
            "taquba.store.requests",
            [self._observe(OpenStore.store_requests)],
            unit="{request}",
            description="Requests of the storage engine to the object store.",
        )
        meter.create_observable_gauge(
            "taquba.store.requests_per_thousand_jobs",
            [self._observe(OpenStore.requests_per_thousand_jobs)],
            unit="{request}",
            description="Requests per thousand jobs that ended, since the store was opened.",
        )

    def add(self, store: OpenStore) -> None:
        self._stores.add(store)

    def discard(self, store: OpenStore) -> None:
        self._stores.discard(store)

    def _observe(
        self, read: Callable[[OpenStore], Iterator[Observation]]
    ) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for store in list(self._stores):
                # A forked child inherits the stores, but not the engine's threads.
                if store.pid == os.getpid():
                    yield from read(store)

        return observe


_lock: Final = threading.Lock()
_gauges: Final[WeakKeyDictionary[MeterProvider, Gauges]] = WeakKeyDictionary()
_global_gauges: list[Gauges] = []


def gauges_of(provider: MeterProvider, meter: Meter) -> Gauges:
    """The gauges of a provider, made on first use."""
    with _lock:
        # The global provider is another object before and after it is configured.
        if provider is get_meter_provider():
            if not _global_gauges:
                _global_gauges.append(Gauges(meter))
            return _global_gauges[0]
        if provider not in _gauges:
            _gauges[provider] = Gauges(meter)
        return _gauges[provider]
