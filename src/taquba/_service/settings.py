"""What a service is told: its handlers, and how the one that becomes the owner opens the store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict, cast

from taquba._model import validate
from taquba._model.errors import InvalidArgumentType
from taquba._model.options import InboxConfig, QueueConfig
from taquba._model.validate import Duration
from taquba._worker.handlers import Handler, check_handler
from taquba._worker.workers import WorkerSpec

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from taquba._telemetry.settings import Telemetry


class OwnerOptions(TypedDict, total=False):
    """Options of `Queue.open` that an owner of a service opens the store with."""

    default_config: QueueConfig | None
    queue_configs: Mapping[str, QueueConfig] | None
    flush_interval: Duration | None
    fsync: bool
    reaper_interval: Duration
    scheduler_interval: Duration
    heartbeat_interval: Duration | None
    payload_offload_threshold: int | None
    payload_url: str | os.PathLike[str] | None
    inbox: InboxConfig
    metrics: Telemetry | MeterProvider | bool | None


Handlers = Mapping[str, Handler] | Iterable[WorkerSpec]


def worker_specs(handlers: Handlers) -> tuple[WorkerSpec, ...]:
    """The worker loops that `handlers` asks for, checked."""
    if isinstance(handlers, Mapping):
        by_name = cast("Mapping[str, Handler]", handlers)
        handlers = [WorkerSpec(name, handler) for name, handler in by_name.items()]
    elif not isinstance(handlers, Iterable) or isinstance(handlers, str):
        raise InvalidArgumentType(
            f"handlers must map queue names to handlers, or list WorkerSpecs; got {handlers!r}"
        )
    specs = tuple(handlers)
    for spec in specs:
        validate.instance(spec, WorkerSpec, "each handler")
        validate.queue_name(spec.name)
        check_handler(spec.handler, spec.executor)
    return specs
