"""Which locations have worked in this process: the rule for temporary refusals.

A place that refuses everything from the start is a mistake in the settings, and trying again
cannot help. The same refusal from a place that has worked before is an expired token, a metadata
service that does not answer, or a bucket that is not found for a moment: it passes.
"""

from __future__ import annotations

from typing import Final

from taquba._model.errors import StoreError, TaqubaError
from taquba._objects.location import StoreLocation

SERVING: Final = "serving"
"""Noted where a process took part in a service: it stood by, or had the store open."""

_CHANGES: Final = ("write", "move", "delete")
"""Verbs of requests that are allowed or refused together, for the most part."""

_FIRST_GAP_SECONDS: Final = 5.0
_LONGEST_GAP_SECONDS: Final = 600.0

_worked: Final[set[tuple[str, ...]]] = set()


class Place:
    """A location, and what this process has seen of it."""

    def __init__(self, location: StoreLocation) -> None:
        # A folder is a place of its own; the prefixes of a bucket share credentials and endpoint.
        root = str(location.folder) if location.bucket is None else location.bucket
        self._bucket = (location.scheme, location.endpoint, root)
        self._actions = (*self._bucket, location.path)

    def note(self, action: str) -> None:
        """The place did what it was asked for."""
        _worked.add(self._bucket)
        _worked.add((*self._actions, _kind(action)))

    def has_worked(self, action: str | None = None) -> bool:
        """Whether it ever did; with an `action`, whether it did the like at this very location."""
        return (self._bucket if action is None else (*self._actions, _kind(action))) in _worked

    def gives_up(self, error: TaqubaError) -> bool:
        """Whether an error ends this process's part in a service.

        Where it has taken part, nothing that the store does ends it.
        """
        passes = isinstance(error, StoreError) and self.has_worked(SERVING)
        return error.permanent and not passes


def _kind(action: str) -> str:
    return "change" if action in _CHANGES else action


class Complaints:
    """When to report that something still fails: less and less often."""

    def __init__(self) -> None:
        self._next = 0.0
        self._gap = _FIRST_GAP_SECONDS

    def due(self, now: float) -> bool:
        """Whether to say so once more; `now` are seconds on a monotonic clock."""
        if now < self._next:
            return False
        self._next = now + self._gap
        self._gap = min(2 * self._gap, _LONGEST_GAP_SECONDS)
        return True

    def clear(self) -> None:
        """It has worked: the next failure is said at once."""
        self._next, self._gap = 0.0, _FIRST_GAP_SECONDS
