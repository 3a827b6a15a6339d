"""What is open and a forked child must not keep.

A child lives on when its parent is killed. What it has inherited would then keep a lock that nobody
holds, a socket on which nobody answers, a connection that never ends.
"""

from __future__ import annotations

import os
from typing import Final, Protocol


class Open(Protocol):
    """Something that has a descriptor, until it is closed."""

    def fileno(self) -> int:
        """The descriptor; negative when it is closed."""
        ...


not_for_children: Final[set[Open]] = set()
"""A forked child closes its copies of these at once."""


def _close_copies() -> None:
    for copy in not_for_children:
        if (descriptor := copy.fileno()) >= 0:
            os.close(descriptor)
    not_for_children.clear()


os.register_at_fork(after_in_child=_close_copies)
