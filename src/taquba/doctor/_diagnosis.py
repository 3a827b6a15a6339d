"""The result of an examination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from taquba._model.records import OwnerSigns

Contents = Literal["nothing", "store", "other layout", "foreign database", "other objects"]
"""The contents of a location.

``store``: a taquba store of the layout that this version reads. ``foreign database``: a SlateDB
database that taquba did not make.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: A short name; those of a separate payload location begin with ``payloads:``.
        ok: Whether it meets the needs of a queue.
        detail: What was found.
        remedy: How to fix the problem; None if the check is ok.
        round_trip_ms: How long the store took for one request of this kind, the median of several,
            in milliseconds; None if there was no such request.
    """

    name: str
    ok: bool
    detail: str
    remedy: str | None = None
    round_trip_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The result of `examine`.

    Attributes:
        url: The location, as the caller wrote it.
        checks: The checks, in the order in which they were made. If a check fails and all later
            ones would fail for the same reason, such as refused credentials, it is the last one of
            its location.
        contents: The contents of the location; None if they could not be determined.
        owner: Whether the store has a living owner, which opening it would fence; None if there is
            no store.
    """

    url: str
    checks: tuple[Check, ...]
    contents: Contents | None
    owner: OwnerSigns | None

    @property
    def ok(self) -> bool:
        """Whether every check is ok, so that a queue can be opened there."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that are not ok."""
        return tuple(check for check in self.checks if not check.ok)
