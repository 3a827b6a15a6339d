"""Where the rows and objects of a workflow queue are kept."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote

from taquba.extending.expiries import expiry_key


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
        return expiry_key(self.expiries, ended_at, run_id)


@lru_cache(maxsize=64)
def keys_of(queue_name: str) -> Keys:
    return Keys(queue_name)
