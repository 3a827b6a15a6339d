"""What the tests of the queue share: looking at rows, and making jobs of a certain state."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from taquba import Claim, Queue
from taquba._model import keys
from taquba._model.codec import decode_row

OpenQueue = Callable[..., Awaitable[Queue]]

STATE_SPACES = {
    "pending": keys.PENDING,
    "scheduled": keys.SCHEDULED,
    "claimed": keys.CLAIMED,
    "done": keys.DONE,
    "dead": keys.DEAD,
}

NO_RETRY_WAIT = {"retry_backoff_base": 0, "retry_jitter": 0}


def fresh_url() -> str:
    """A memory store of its own that can be opened more than once."""
    return f"memory://{uuid.uuid4().hex}"


async def rows(queue: Queue) -> dict[bytes, bytes]:
    """Every row of the store, as of everything submitted so far."""
    owner = queue._owner
    await owner.committer.barrier()
    found: dict[bytes, bytes] = {}
    async for batch in owner.engine.scan_prefix(b""):
        found.update(batch)
    return found


async def leftovers(queue: Queue) -> dict[bytes, bytes]:
    """Rows besides the layout's stamp and each queue's counters and cursor, which stay."""
    return {
        key: value
        for key, value in (await rows(queue)).items()
        if not key.startswith((keys.META, keys.OWNER, keys.STATS, keys.CURSOR, keys.MEMBER))
    }


async def true_counts(queue: Queue, name: str) -> dict[str, int]:
    """Rows of a queue per state, counted in the store."""
    found = await rows(queue)
    return {
        status: sum(
            key.startswith(space) and decode_row(key, value).queue == name
            for key, value in found.items()
        )
        for status, space in STATE_SPACES.items()
    }


async def must_claim(queue: Queue, name: str = "q", **options: object) -> Claim:
    claim = await queue.claim(name, **options)  # type: ignore[arg-type]
    assert claim is not None
    return claim


async def claimed_ids(queue: Queue, name: str = "q") -> list[str]:
    """Claim everything that is pending, one at a time; ids in claim order."""
    ids: list[str] = []
    while (claim := await queue.claim(name)) is not None:
        ids.append(claim.id)
    return ids


async def kill_job(queue: Queue, name: str = "q", reason: str = "broken") -> str:
    """Dead-letter the first pending job; its id."""
    claim = await must_claim(queue, name)
    await queue.dead_letter(claim, reason)
    return claim.id
