"""Where the rows and objects of a workflow queue are kept."""

from __future__ import annotations

import logging
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import quote

_log: Final = logging.getLogger(__name__)

_MOST_DIGITS: Final = 14
"""Enough for ms since the epoch until the year 5138, so that keys sort by time."""


class Keys:
    """Keys of one workflow queue: runs and signals of another are others, whatever their names."""

    def __init__(self, queue_name: str) -> None:
        # Without slashes, and so that no queue's keys are below another's.
        name = quote(queue_name, safe="")
        self._runs = f"workflow/run/{name}/"
        self._signals = f"workflow/signal/{name}/"
        self._memos = f"workflow/memo/{name}/"
        self.expiries = f"workflow/expiry/{name}/"
        """Prefix of the entries that say when runs ended, in the order of time."""
        # The characters of an object's key are few.
        self._objects = f"workflow/{sha256(queue_name.encode()).hexdigest()[:16]}"

    def run(self, run_id: str) -> str:
        return self._runs + run_id

    def signal(self, key: str) -> str:
        return self._signals + key

    def memos(self, run_id: str) -> str:
        """Prefix of everything that the steps of a run remember."""
        return f"{self._memos}{run_id}/"

    def history(self, run_id: str) -> str:
        """Prefix of what the function of a run has done."""
        return f"{self.memos(run_id)}h/"

    def objects(self, run_id: str) -> str:
        """Prefix of the objects of a run."""
        return f"{self._objects}/{run_id}"

    def expiry(self, ended_at: int, run_id: str) -> str:
        return f"{self.expiries}{ended_at:0{_MOST_DIGITS}d}/{run_id}"

    def expired(self, key: str) -> tuple[int, str] | None:
        """When a run ended, and its id, from the key of its expiry; None for another key."""
        try:
            ended_at, run_id = key.removeprefix(self.expiries).split("/")
            return int(ended_at), run_id
        except ValueError:
            _log.warning("the entry %r is none of taquba_workflow's: delete it, or rename it", key)
            return None


@lru_cache(maxsize=64)
def keys_of(queue_name: str) -> Keys:
    return Keys(queue_name)
