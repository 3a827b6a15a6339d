"""Which process owns a store, as far as that is known."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class Holder(NamedTuple):
    """The process that owns a store. What is unknown is None.

    Attributes:
        host: The name of its machine.
        pid: Its number there.
        since: When it became the owner.
    """

    host: str | None = None
    pid: int | None = None
    since: datetime | None = None

    def text(self) -> str:
        """The same for people."""
        who = "an unknown process" if self.pid is None else f"process {self.pid}"
        where = "" if self.host is None else f" on {self.host}"
        when = "" if self.since is None else f", since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{who}{where}{when}"
