"""The hooks of an open store: metrics, traces, or both."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from opentelemetry import metrics, trace

from taquba._memory.gate import HasSuspects
from taquba._model.clock import Clock
from taquba._model.options import EnqueueRequest
from taquba._model.records import Counters, EnqueueResult, JobView
from taquba._telemetry.metrics import Metrics
from taquba._telemetry.settings import Telemetry
from taquba._telemetry.tracing import Tracing

T = TypeVar("T")
Provider = TypeVar("Provider")
HeadersOf = Callable[[Mapping[str, str] | None], Mapping[str, str]]


class Instrumentation:
    """The hooks that the queue and its workers call. None of them raises anything of its own."""

    def __init__(self, metrics: Metrics | None, tracing: Tracing | None) -> None:
        self.metrics = metrics
        self._tracing = tracing

    @classmethod
    def choose(cls, settings: Telemetry, store: str, clock: Clock) -> Instrumentation | None:
        """The metrics and traces that are wanted and have a receiver."""
        meters = _chosen(settings.meter_provider, metrics.get_meter_provider)
        tracers = _chosen(settings.tracer_provider, trace.get_tracer_provider)
        if meters is None and tracers is None:
            return None
        return cls(
            None if meters is None else Metrics(meters, store, clock),
            None if tracers is None else Tracing(tracers, store),
        )

    def watch(
        self,
        counters: dict[str, Counters],
        pending: Callable[[], Mapping[str, HasSuspects]],
        requests: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        """Report the state of the open store until `close`; see `OpenStore`."""
        if self.metrics is not None:
            self.metrics.watch(counters, pending, requests)

    def close(self) -> None:
        if self.metrics is not None:
            self.metrics.close()

    async def sending(
        self, requests: Sequence[EnqueueRequest], enqueue: Awaitable[list[EnqueueResult]]
    ) -> list[EnqueueResult]:
        """Await an enqueue in a producer span."""
        tracing = self._tracing
        span = None if tracing is None else tracing.start_enqueue(requests)
        if tracing is None or span is None:
            return await enqueue
        before = tracing.enter(span)
        try:
            results = await enqueue
        except BaseException as error:
            tracing.end(span, error)
            raise
        else:
            tracing.end(span, None, results[0].id if len(results) == 1 else None)
            return results
        finally:
            tracing.leave(before)

    def carrier(self) -> HeadersOf | None:
        """A function that adds the trace's headers to those of jobs that are enqueued now.

        Headers of the trace that the caller set itself are kept.
        """
        tracing = self._tracing
        carried = None if tracing is None else tracing.headers()
        if tracing is None or not carried:
            return None

        def headers_of(own: Mapping[str, str] | None) -> Mapping[str, str]:
            if not own:
                return carried
            if any(name in own and not tracing.is_copied(name, own[name]) for name in carried):
                return own
            return {**own, **carried}

        return headers_of

    def carried(self, requests: Sequence[EnqueueRequest]) -> list[EnqueueRequest]:
        """The requests with the trace's headers, for an owner in another process."""
        headers_of = self.carrier()
        if headers_of is None:
            return list(requests)
        return [replace(request, headers=headers_of(request.headers)) for request in requests]

    async def processing(self, job: JobView, call: Awaitable[T]) -> T:
        """Await a handler's call in a consumer span, which stays current in the calling task."""
        tracing = self._tracing
        span = None if tracing is None else tracing.start_process(job)
        began = time.perf_counter()
        failure: BaseException | None = None
        try:
            return await call
        except BaseException as error:
            failure = error
            raise
        finally:
            if self.metrics is not None:
                self.metrics.processed(job.queue, time.perf_counter() - began, failure)
            if tracing is not None and span is not None:
                tracing.end(span, failure)

    def lease_renewed(self, queue: str) -> None:
        if self.metrics is not None:
            self.metrics.lease_renewed(queue)


def _chosen(choice: Provider | bool | None, current: Callable[[], Provider]) -> Provider | None:
    if choice is False:
        return None
    if choice is True:
        return current()
    if choice is not None:
        return choice
    provider = current()
    # The API's own providers do nothing: they mean that none is configured.
    api = type(provider).__module__.startswith(("opentelemetry.metrics", "opentelemetry.trace"))
    return None if api else provider
