"""What the conductor, the owners and the checker agree on."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Self

ORDERS = "orders"
"""Worked on by hand, with priorities, delays, dedup keys, cancels and dead letters."""
MAILS = "mails"
"""Like orders, and done jobs are kept for a while."""
TASKS = "tasks"
"""Worked on by `run_worker`; each acknowledgement brings a follow-up."""
FOLLOW = "follow"
"""The follow-ups, worked on by hand."""

BY_HAND = (ORDERS, MAILS, FOLLOW)
QUEUES = (ORDERS, MAILS, TASKS, FOLLOW)

MAX_ATTEMPTS = 4
LEASE_SECONDS = 3.0
KEEP_DONE_SECONDS = 20.0

FOLLOW_PREFIX = "f-"
"""The follow-up of job ``x`` is ``f-x``."""
LEDGER = "ledger/"
"""Prefix of the entries that say which call of an actor was the last to have its effect."""
COUNTER = "counter/"
"""Prefix of the entries that count up by compare-and-set."""

EXIT_FENCED = 7
EXIT_STORE_LOST = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an owner works.

    Attributes:
        url: The store.
        begin: When the soak began, on the machine's monotonic clock.
        rate: Jobs per second at the height of the load.
        wave: Seconds from one height of the load to the next.
        drains: Whether the owner only works off what is left, and ends when nothing is.
        clock_ms: How far its clock is ahead at its start.
    """

    url: str
    begin: float
    rate: float = 100.0
    wave: float = 60.0
    drains: bool = False
    clock_ms: int = 0

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def load_at(self, moment: float) -> float:
        """The load as a share of its height: a wave between 0.1 and 1."""
        return 0.55 - 0.45 * math.cos((moment - self.begin) / self.wave * 2 * math.pi)
