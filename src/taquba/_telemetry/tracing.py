"""Traces: a span around each enqueue and each handler, linked through the headers of the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider

from taquba._model.options import EnqueueRequest
from taquba._model.records import JobView
from taquba._model.redaction import without_secrets
from taquba._telemetry import names
from taquba._telemetry.guard import guarded
from taquba._telemetry.names import ENQUEUE, PROCESS, Operation

Attributes = dict[str, str | int]

_handled: ContextVar[Mapping[str, str] | None] = ContextVar("taquba_handled", default=None)
"""Headers of the job whose handler this task runs."""


class Tracing:
    """The spans of one open store."""

    def __init__(self, provider: TracerProvider, store: str) -> None:
        self._store = store
        self._tracer = provider.get_tracer(names.SCOPE, names.VERSION, names.SCHEMA_URL)

    @guarded
    def start_enqueue(self, requests: Sequence[EnqueueRequest]) -> Span:
        """A producer span, child of the current one, linked to the contexts that callers gave."""
        queues = {request.queue for request in requests}
        queue = queues.pop() if len(queues) == 1 else None
        attributes = self._attributes(ENQUEUE, queue)
        if len(requests) > 1:
            attributes[names.BATCH_SIZE] = len(requests)
        return self._tracer.start_span(
            _name(ENQUEUE, queue),
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            links=[
                link
                for request in requests
                if request.headers and (link := _link(_extract(request.headers)))
            ],
        )

    @guarded
    def start_process(self, job: JobView) -> Span:
        """A consumer span, root of a trace and current from now on, linked to the job's context.

        It stays current for the rest of the calling task, so the result or failure of the handler
        is settled in its context.
        """
        carried = _extract(job.headers)
        link = _link(carried)
        attributes = self._attributes(PROCESS, job.queue)
        attributes[names.JOB_ID] = job.id
        attributes[names.ATTEMPT] = job.attempts
        span = self._tracer.start_span(
            _name(PROCESS, job.queue),
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[link] if link else None,
        )
        context.attach(trace.set_span_in_context(span, carried))
        _handled.set(job.headers)
        return span

    @guarded
    def enter(self, span: Span) -> Token[Context]:
        """Make `span` current; returns the token for `leave`."""
        return context.attach(trace.set_span_in_context(span))

    @guarded
    def leave(self, before: Token[Context] | None) -> None:
        if before is not None:
            context.detach(before)

    @guarded
    def end(self, span: Span, error: BaseException | None, job_id: str | None = None) -> None:
        if job_id is not None:
            span.set_attribute(names.JOB_ID, job_id)
        if error is not None and span.is_recording():
            shown = without_secrets(error)
            span.record_exception(shown)
            span.set_attribute(names.ERROR_TYPE, names.error_type(error))
            span.set_status(Status(StatusCode.ERROR, str(shown)))
        span.end()

    @guarded
    def headers(self) -> dict[str, str]:
        """The current context, as headers for jobs that are enqueued in it."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    @staticmethod
    def is_copied(name: str, value: str) -> bool:
        """Whether a header came with the job that is being handled.

        A handler that passes on its job's headers did not choose the trace headers among them.
        """
        handled = _handled.get()
        return handled is not None and handled.get(name) == value

    def _attributes(self, operation: Operation, queue: str | None) -> Attributes:
        attributes: Attributes = {
            names.SYSTEM: names.SCOPE,
            names.OPERATION_NAME: operation.name,
            names.OPERATION_TYPE: operation.type,
            names.STORE: self._store,
        }
        if queue is not None:
            attributes[names.QUEUE] = queue
        return attributes


def _name(operation: Operation, queue: str | None) -> str:
    return operation.name if queue is None else f"{operation.name} {queue}"


def _extract(headers: Mapping[str, str]) -> Context:
    return propagate.extract(headers, context=Context())


def _link(carried: Context) -> Link | None:
    producer = trace.get_current_span(carried).get_span_context()
    return Link(producer) if producer.is_valid else None
