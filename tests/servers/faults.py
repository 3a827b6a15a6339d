"""What a proxy in front of an object store does to requests, and what it counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What happens to requests; by default nothing.

    The shares, from 0 to 1, are of the requests that match `methods` and `kinds`. The first three
    faults happen before the store sees the request. In the last three the store carries it out,
    and the client does not learn that it did.

    Attributes:
        latency_ms: Every reply comes at least this long after its request, faults included.
        refuse: Share that is answered with `refusal`.
        reset: Share whose connection is reset.
        hang: Share that gets no answer until other faults are injected; then a reset.
        fail_reply: Share that is carried out and answered with `failure`.
        lose_reply: Share that is carried out and whose connection is then reset.
        hang_reply: Share that is carried out and gets no answer, as with `hang`.
        refusal: A status, and the code of an Azure error if there is one.
        failure: The same.
        burst: How many matching requests in a row a fault strikes.
        limit: How many requests are struck at most; None: no limit.
        methods: ``PUT``, ``GET``, ``HEAD``, ``POST``, ``DELETE`` or ``LIST``; empty: all.
        kinds: What `kind_of` calls the object; empty: all.
    """

    latency_ms: float = 0
    refuse: float = 0
    reset: float = 0
    hang: float = 0
    fail_reply: float = 0
    lose_reply: float = 0
    hang_reply: float = 0
    refusal: tuple[int, str] = (503, "")
    failure: tuple[int, str] = (500, "")
    burst: int = 1
    limit: int | None = None
    methods: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def shares(self) -> Iterator[tuple[str, float]]:
        for name in ("refuse", "reset", "hang", "fail_reply", "lose_reply", "hang_reply"):
            yield name, getattr(self, name)

    def match(self, method: str, kind: str) -> bool:
        return (not self.methods or method in self.methods) and (
            not self.kinds or kind in self.kinds
        )


def kind_of(path: str) -> str:
    """What an object, or a listed prefix, holds: told by the folder that it is in."""
    for folder in reversed(path.strip("/").split("/")):
        if folder in ("wal", "manifest", "compacted", "compactions", "gc"):
            return folder
        if folder.endswith("-payloads"):
            return "payload"
        if folder.endswith("-inbox"):
            return "inbox"
    return "other"


class Count(NamedTuple):
    """What was asked of the store with one method for one kind of object."""

    method: str
    kind: str
    requests: int
    struck: int
    sent_bytes: int
    received_bytes: int


class Counts(tuple[Count, ...]):
    """Counts since the proxy started, or since they were last cleared."""

    def of(self, *, method: str | None = None, kind: str | None = None) -> Count:
        """The sum over all methods, or kinds, that are not given."""
        rows = [row for row in self if method in (None, row.method) and kind in (None, row.kind)]
        return Count(
            method or "",
            kind or "",
            sum(row.requests for row in rows),
            sum(row.struck for row in rows),
            sum(row.sent_bytes for row in rows),
            sum(row.received_bytes for row in rows),
        )
