"""Times as they are stored: milliseconds since the Unix epoch."""

from __future__ import annotations

from datetime import datetime, timedelta

from taquba._model.clock import from_ms, to_ms
from taquba._model.validate import Duration, duration_ms

__all__ = ["from_ms", "later", "to_ms"]


def later(moment: datetime, duration: Duration, name: str) -> datetime:
    """A moment and a duration after it; `name` is what errors call the duration."""
    return moment + timedelta(milliseconds=duration_ms(duration, name))
