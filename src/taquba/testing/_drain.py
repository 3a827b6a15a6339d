"""`drain`: run everything that is due, deterministically."""

from __future__ import annotations

from taquba._interface.store import Store
from taquba._model import validate
from taquba._model.validate import Duration
from taquba._queue import loops
from taquba._queue.owner import owner_of
from taquba._worker.handlers import Handler
from taquba._worker.own_source import OwnSource
from taquba._worker.worker import Worker, WorkerSpec


async def drain(
    store: Store,
    queue: str,
    handler: Handler,
    *,
    lease: Duration | None = None,
    timeout: Duration | None = None,
) -> int:
    """Run `handler` on every job of a queue that is due now, one at a time, in claim order.

    Due scheduled jobs are promoted first; jobs that the handler enqueues, and retries without a
    backoff, are run as well. A handler's failure is settled as a worker would settle it.

    Args:
        store: An open `taquba.Queue`.
        queue: Name of the queue.
        handler: As for `run_worker`.
        lease: Lease of each claim, seconds; default: the queue's.
        timeout: How long a handler may take, in seconds on the queue's clock.

    Returns:
        The number of attempts that ran.
    """
    owner = owner_of(store)
    lease_ms = None if lease is None else validate.duration_ms(lease, "lease", minimum=1)
    source = OwnSource(owner, validate.queue_name(queue), lease_ms, store)
    worker = Worker(source, WorkerSpec(queue, handler, timeout=timeout))
    attempts = 0
    while True:
        await loops.promote_due(owner)
        found = await source.take_one_now()
        if found is None:
            return attempts
        await worker.work_on(found)
        attempts += 1
