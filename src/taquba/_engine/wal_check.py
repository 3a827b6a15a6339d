"""Whether the write-ahead log is whole, looked at before the engine reads it again.

The engine numbers its write-ahead objects without gaps: an owner writes the next one only after the
former one was stored, and an owner that opens the store first makes an empty one, its *fence*. Two
things break that, and the engine does not tell them apart:

- A store that answers "exists already" to a fencing write without having stored anything. The
  engine then fences with the next number, and stops at the hole whenever it reads the log again.
- An object that was deleted or emptied. The engine may skip it without a word.

The rule that tells them apart: an owner that writes commits has read or written every object below.
So a hole below commits is damage. A hole above the last commits is a number at which nothing was
acknowledged: an empty object, created only if there is none, mends it. An owner that is still alive
and writes there at that moment either comes first, and what it stored is read, or is refused like
any other owner that was fenced.

Sequence numbers of commits have no gaps either. So commits are missing where those on both sides of
an empty object do not follow each other. At the end of the log there is only one side. There, the
mark that each owner leaves with its first commit says how often the store had been opened by then:
where nobody opened it after that, an empty object above is not a fence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from taquba._engine.damage import RESTORE
from taquba._model.errors import StoreError
from taquba._objects.location import StoreLocation

FOLDER: Final = "wal"
SUFFIX: Final = ".sst"
DIGITS: Final = 20


class Log(NamedTuple):
    """The write-ahead objects that the next owner reads again, as one look saw them.

    Attributes:
        epoch: How often the store was opened for writing so far.
        replayed: The number up to which all is in tables.
        tables_seq: The sequence number of the last commit in tables.
        sizes: Number of each object above `replayed`, and its bytes.
    """

    epoch: int
    replayed: int
    tables_seq: int
    sizes: Mapping[int, int]

    @property
    def last_commits(self) -> int:
        """The last object that holds commits."""
        return max((number for number, size in self.sizes.items() if size), default=self.replayed)

    def missing(self) -> list[int]:
        """Numbers without an object, below one that is there."""
        last = max(self.sizes, default=self.replayed)
        return [number for number in range(self.replayed + 1, last) if number not in self.sizes]

    def lost(self) -> list[int]:
        """Missing ones that held commits."""
        return [number for number in self.missing() if number < self.last_commits]

    def holes(self) -> list[int]:
        """Missing ones that never were there."""
        return [number for number in self.missing() if number > self.last_commits]

    def empty_at_end(self) -> list[int]:
        """Empty objects above the last one that holds commits."""
        return sorted(number for number in self.sizes if number > self.last_commits)

    def around_empty(self) -> Iterator[tuple[int | None, int]]:
        """The objects with commits on both sides of empty ones; None for the tables."""
        before: int | None = None
        empty = False
        for number in sorted(self.sizes):
            if not self.sizes[number]:
                empty = True
                continue
            if empty:
                yield before, number
            before, empty = number, False


class Damage(NamedTuple):
    """What is wrong with a log, and what to do about it."""

    what: str
    remedy: str

    def as_error(self, location: StoreLocation) -> StoreError:
        return StoreError(f"{location.url}: {self.what}; {self.remedy}", permanent=True)


def object_name(number: int) -> str:
    """The key of a write-ahead object, below the store's location."""
    return f"{FOLDER}/{number:0{DIGITS}d}{SUFFIX}"


def loss(log: Log) -> Damage | None:
    """What a log has lost for being deleted, or None."""
    lost = log.lost()
    if not lost:
        return None
    what = _named(lost, "is missing", "are missing")
    return Damage(f"{what}, and held acknowledged changes: later ones are there", RESTORE)


def emptied(log: Log, sequences: Mapping[int, tuple[int, int]]) -> Damage | None:
    """What a log has lost for being emptied, or None.

    Args:
        log: The log.
        sequences: The first and the last sequence number of each object beside empty ones.
    """
    for before, after in log.around_empty():
        first, _ = sequences[after]
        last = log.tables_seq if before is None else max(log.tables_seq, sequences[before][1])
        if first > last + 1:
            below = log.replayed if before is None else before
            empty = [number for number in range(below + 1, after) if number in log.sizes]
            what = _named(empty, "is empty, and held", "are empty, and one of them held")
            return Damage(f"{what} the acknowledged changes {last + 1} to {first - 1}", RESTORE)
    return None


def emptied_at_end(log: Log, mark: bytes | None) -> Damage | None:
    """What a log has lost at its end for being emptied, or None where that cannot be told.

    Args:
        log: The log.
        mark: That of the owner that has committed last.
    """
    empty = log.empty_at_end()
    # Files are written in their order: one above a hole is a fence.
    if not empty or log.holes() or mark is None or epoch_of(mark) != log.epoch:
        return None
    what = _named(empty, "is empty, and held", "are empty, and held")
    return Damage(f"{what} acknowledged changes: nobody opened the store after its owner", RESTORE)


def mark_of(owner: str, epoch: int) -> bytes:
    """The mark of an owner that opened a store as the `epoch`th, or later."""
    return f"{owner}.{epoch}".encode()


def owner_of(mark: bytes | None) -> str | None:
    """The owner in a mark; None where there is no mark."""
    return None if mark is None else mark.partition(b".")[0].decode()


def epoch_of(mark: bytes) -> int | None:
    """The epoch in a mark."""
    _, _, epoch = mark.partition(b".")
    return int(epoch) if epoch.isdigit() else None


def hole(log: Log) -> Damage | None:
    """The hole that a refused fencing write has left, or None."""
    holes = log.holes()
    if not holes:
        return None
    what = _named(holes, "was never written", "were never written")
    return Damage(
        f"{what}, though a later one was; nothing that was acknowledged is missing",
        "open the store for writing, which mends it",
    )


def _named(numbers: Sequence[int], one: str, several: str) -> str:
    if len(numbers) == 1:
        return f"the write-ahead file {object_name(numbers[0])} {one}"
    first, last = object_name(numbers[0]), object_name(numbers[-1])
    return f"the write-ahead files {first} to {last} {several}"
