"""What the conductor, the members and the checker agree on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

EVIDENT = "evident"
"""Its handlers return an entry that says who settled the job: it lands with the settlement."""
PLAIN = "plain"
"""Its handlers return nothing, so their jobs end many at a time."""
HAND = "hand"
"""Claimed and settled by hand, with an entry as above."""
QUEUES = (EVIDENT, PLAIN, HAND)
WITH_EVIDENCE = (EVIDENT, HAND)

SETTLED = "settled/"
"""Prefix of the entries ``settled/JOB/RUN``."""
ALONG = "along/"
"""Prefix of the entries that were enqueued together with a job: ``along/TAG``."""
COUNTER = "counter"
"""An entry that all members count up by compare-and-set."""
OWN = "own/"
"""Prefix of an entry that only one member writes."""

MAX_ATTEMPTS = 4
KEEP_SECONDS = 86_400.0
LATE_SHARE = 3
"""A member that does nothing for this part of a lease may lose jobs."""

STOP = b"stop"
ENOUGH = b"enough"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How members work.

    Attributes:
        url: The store.
        seed: Of everything that is drawn.
        rate: Jobs per second that all members enqueue together.
        members: How many there are.
        lease: Seconds.
        killers: The share of jobs that end their process.
    """

    url: str
    seed: int
    rate: float
    members: int
    lease: float
    killers: float

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        return cls(**json.loads(text))


def log_of(folder: Path, number: int) -> Path:
    """Where a member writes down what it does."""
    return folder / f"member-{number:05}.jsonl"


def content(tag: str, kind: str, how: float, size: int) -> bytes:
    """The payload of a job."""
    head = json.dumps({"tag": tag, "kind": kind, "how": how, "size": size})
    return head.encode().ljust(size)


def read_content(payload: bytes) -> dict[str, Any]:
    """What a payload says, and whether it is whole."""
    found: dict[str, Any] = json.loads(payload)
    expected = content(found["tag"], found["kind"], found["how"], found["size"])
    return {**found, "whole": payload == expected}
