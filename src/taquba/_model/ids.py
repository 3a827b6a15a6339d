"""Job ids: ULIDs that ascend strictly within one open store, whatever the clock does."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from typing import Final

from ulid import ULID

from taquba._model.clock import Clock

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_COUNTER_LIMIT: Final = 1 << 20
"""The last four characters, of 5 bits each, are the counter."""
_STEM_BITS: Final = range(120, 10, -10)
"""Where the pairs of characters before them lie in the 128 bits of a ULID."""
_MOST_RESERVED: Final = 10_000


def id_of_key(queue: str, key: str) -> str:
    """The job id for an idempotency key of a queue: the same in every process."""
    # A queue name has no NUL, so no two pairs are hashed as the same text.
    return str(ULID(hashlib.sha256(f"{queue}\0{key}".encode()).digest()[:16]))


class IdGenerator:
    """Monotonic ULID generator.

    A fresh ULID is drawn whenever the clock's millisecond advances; within a millisecond, and
    when the clock stands still or steps back, the last four characters count upwards. So an id
    costs two table look-ups, and ids ascend in the order in which they were drawn.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ms = -1
        self._stem = ""
        self._counter = _COUNTER_LIMIT
        # Not a dict, in which finding the oldest entry takes longer the more were removed before
        # it.
        self._reserved: OrderedDict[str, None] = OrderedDict()

    def next(self) -> str:
        now = self._clock.time_ms()
        counter = self._counter + 1
        if now > self._ms or counter >= _COUNTER_LIMIT:
            counter = self._draw(now if now > self._ms else self._ms + 1)
        self._counter = counter
        return self._stem + _PAIRS[counter >> 10] + _PAIRS[counter & 1023]

    def reserve(self) -> str:
        """An id for a job that is enqueued later."""
        job_id = self.next()
        if len(self._reserved) >= _MOST_RESERVED:
            # If there are very many, the oldest will be looked up, as if the caller had chosen it.
            del self._reserved[next(iter(self._reserved))]
        self._reserved[job_id] = None
        return job_id

    def take_reserved(self, job_id: str) -> bool:
        """Whether an id was reserved and is taken for the first time: no job can have it yet."""
        if job_id not in self._reserved:
            return False
        del self._reserved[job_id]
        return True

    def _draw(self, ms: int) -> int:
        self._ms = ms
        # Not ULID.from_timestamp: within a millisecond it counts up over all generators of the
        # process, so two owners of a store, one after the other, could draw the same stem.
        drawn = ms << 80 | int.from_bytes(os.urandom(10), "big")
        self._stem = "".join([_PAIRS[drawn >> bits & 1023] for bits in _STEM_BITS])
        # The lower half of the counter's range keeps at least 2**19 ids for this millisecond.
        return drawn % _COUNTER_LIMIT >> 1
