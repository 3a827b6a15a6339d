"""The settings of a service: its handlers, and how an owner opens the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, cast

from taquba._model import validate
from taquba._model.describing import shown
from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._worker.handlers import Handler, check_handler, same_handler
from taquba._worker.worker import WorkerSpec

CONCURRENCY: Final = 8
"""Jobs that each handler of a mapping runs at a time, in each process."""

Handlers = Mapping[str, Handler] | Iterable[WorkerSpec]


def worker_specs(handlers: Handlers) -> tuple[WorkerSpec, ...]:
    """The worker loops for `handlers`, checked."""
    if isinstance(handlers, Mapping):
        by_name = cast("Mapping[str, Handler]", handlers)
        handlers = [
            WorkerSpec(name, handler, concurrency=CONCURRENCY) for name, handler in by_name.items()
        ]
    elif not isinstance(handlers, Iterable) or isinstance(handlers, str):
        raise InvalidArgumentType(
            f"handlers must map queue names to handlers, or list WorkerSpecs; got {handlers!r}"
        )
    specs = tuple(handlers)
    for spec in specs:
        validate.instance(spec, WorkerSpec, "each handler")
        validate.queue_name(spec.queue)
        check_handler(spec.handler, spec.executor)
    by_queue: dict[str, Handler] = {}
    for spec in specs:
        # Found here, and not only once this process owns the store.
        if not same_handler(by_queue.setdefault(spec.queue, spec.handler), spec.handler):
            raise InvalidArgument(
                f"queue {spec.queue!r} has two handlers, {shown(by_queue[spec.queue])} and "
                f"{shown(spec.handler)}, and each would take the other's jobs: use another queue "
                "for one of them"
            )
    return specs
