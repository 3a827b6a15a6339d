"""How far the claims of each queue have come, kept in the store for the next owner.

A row says up to which key a queue has no pending row, so that the first scan of the next owner
starts there, and not in front of everything that was ever claimed and is not compacted yet. It is
true of every commit: it goes up with a group of commits that is written anyway, and down in the
same write that puts a pending row below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from taquba._store.transaction import Transaction

_TAKEN: Final = 1000
"""Pending rows of a queue that go before its cursor goes up."""


class ClaimCursors:
    """The cursors of one open store.

    Args:
        stored: Those in the store.
        reached: Up to which key the store holds no pending row of a queue as of the groups written
            so far, whatever is decided and not written yet; None where that is unknown.
    """

    def __init__(self, stored: dict[str, bytes], reached: Callable[[str], bytes | None]) -> None:
        self._stored = stored
        self._reached = reached
        self._taken: dict[str, int] = {}

    def moved_by(self, group: Sequence[Transaction]) -> dict[str, bytes]:
        """The cursors that must be written with a group, by queue."""
        stored, taken = self._stored, self._taken
        moved: dict[str, bytes] = {}
        for transaction in group:
            for change in transaction.changes:
                pending = change.counts.pending
                if pending > 0:
                    queue = change.job.queue
                    cursor = moved.get(queue) or stored.get(queue)
                    if cursor is not None and change.key <= cursor:
                        moved[queue] = _below(change.key)
                elif pending < 0:
                    queue = change.job.queue
                    taken[queue] = taken.get(queue, 0) + 1
        for queue in [queue for queue, count in taken.items() if count >= _TAKEN]:
            del taken[queue]
            reached = self._reached(queue)
            if reached is not None:
                moved[queue] = min([reached, *map(_below, _put(group, queue))])
        return moved

    def written(self, moved: dict[str, bytes]) -> None:
        """The group is applied."""
        self._stored.update(moved)


def _put(group: Iterable[Transaction], queue: str) -> Iterable[bytes]:
    """Keys of the pending rows that a group puts into a queue."""
    return (
        change.key
        for transaction in group
        for change in transaction.changes
        if change.counts.pending > 0 and change.job.queue == queue
    )


def _below(key: bytes) -> bytes:
    """A key below `key`, and above all rows that are not its neighbours."""
    return key[:-1]
