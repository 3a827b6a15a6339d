"""The source of a worker loop, by the handle on the store that it was given."""

from __future__ import annotations

from taquba._interface.store import Store
from taquba._model import validate
from taquba._model.validate import Duration
from taquba._queue.owner import owner_of
from taquba._worker.own_source import OwnSource
from taquba._worker.source import HasSources, JobSource


def source_of(store: Store, queue: str, lease: Duration | None) -> JobSource:
    """Where a worker loop of a queue takes its jobs from."""
    name = validate.queue_name(queue)
    lease_ms = None if lease is None else validate.duration_ms(lease, "lease", minimum=1)
    if isinstance(store, HasSources):
        return store._job_source(name, lease_ms)  # pyright: ignore[reportPrivateUsage] - shown to this module only
    return OwnSource(owner_of(store), name, lease_ms)
