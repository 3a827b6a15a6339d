"""Taking batches of producers into the queues, each once, by whatever way and however often."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from taquba._model import keys
from taquba._model.batch import Batch, decode_batch
from taquba._model.records import EnqueueResult
from taquba._queue import enqueueing
from taquba._queue.owner import Owner
from taquba._store.transaction import Transaction

_AT_ONCE_BYTES: Final = 64 * 1024
"""Takes at most a few milliseconds."""


class Ingested(NamedTuple):
    """A batch on its way into the store.

    Attributes:
        results: What it makes of each request; None if it was taken before.
        landed: Done when its commit is durable.
    """

    results: list[EnqueueResult] | None
    landed: asyncio.Future[None]

    @property
    def known(self) -> bool:
        """Whether it was taken before."""
        return self.results is None

    @property
    def new(self) -> int:
        """How many jobs it makes."""
        return sum(result.new for result in self.results or ())

    async def until_landed(self) -> None:
        """Wait for its commit; raises its error if it failed."""
        await self.landed


async def decode(name: str, data: bytes) -> Batch:
    """Read a batch, a large one in a thread.

    Raises:
        MalformedBatch: It cannot be taken.
    """
    if len(data) <= _AT_ONCE_BYTES:
        return decode_batch(name, data)
    return await asyncio.to_thread(decode_batch, name, data)


async def ingest(owner: Owner, batch: Batch) -> list[EnqueueResult] | None:
    """Enqueue a batch, unless that was done before; durable when this returns.

    Returns:
        What it makes of each request; None if that was done before.
    """
    ingested = await submit(owner, batch)
    await ingested.landed
    return ingested.results


async def submit(owner: Owner, batch: Batch) -> Ingested:
    """Submit a batch, unless it was enqueued before; the first submission counts."""
    transaction = Transaction()
    # Held until the commit is durable or has failed, even if nobody waits for that any longer.
    transaction.finally_((await owner.lock([("batch", batch.name)])).release)
    results: list[EnqueueResult] | None = None
    try:
        mark = keys.batch_mark(batch.name)
        if await owner.engine.get(mark) is None:
            results = await enqueueing.stage_batch(owner, transaction, batch)
        else:
            # Its commit is visible, but perhaps not durable, and this owner may have been fenced: a
            # write proves both.
            transaction.put(mark, b"")
    except BaseException:
        transaction.abandon()
        raise
    return Ingested(results, owner.committer.submit(transaction, durable=True))
