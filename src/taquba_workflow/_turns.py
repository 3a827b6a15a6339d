"""What the runtimes of one workflow queue share in memory: whose turn it is to decide."""

from __future__ import annotations

from collections import Counter
from weakref import WeakKeyDictionary

from taquba import Store
from taquba.extending import KeyLocks


class Turns:
    """Turns of one workflow queue, whichever of its runtimes is asked."""

    def __init__(self) -> None:
        self.submissions = KeyLocks()
        """By run id."""
        self.signals = KeyLocks()
        """By key."""
        self.cancelling: Counter[str] = Counter()
        """Runs that are being cancelled in this moment, and by how many."""


_turns: WeakKeyDictionary[Store, dict[str, Turns]] = WeakKeyDictionary()


def turns_of(store: Store, queue_name: str) -> Turns:
    """One process owns a store, so what is decided takes turns in its memory."""
    return _turns.setdefault(store, {}).setdefault(queue_name, Turns())
