"""What an examination found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from taquba._model.records import OwnerSigns

Contents = Literal["nothing", "store", "other layout", "foreign database", "other objects"]
"""What is at a location.

``store``: a taquba store of the layout that this version reads. ``foreign database``: a SlateDB
database that taquba did not make.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was tried or looked at.

    Attributes:
        name: A short name; those of a separate payload location begin with ``payloads:``.
        ok: Whether it is as the queue needs it.
        detail: What was found.
        remedy: What to do about it; None when it is ok.
        round_trip_ms: How long the store took for one request of this kind, the median of
            several, in milliseconds; None where there was no such request.
    """

    name: str
    ok: bool
    detail: str
    remedy: str | None = None
    round_trip_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What `examine` found.

    Attributes:
        url: The location, as the caller wrote it.
        checks: In the order in which they were done. Where one fails that all later ones would
            fail with, such as credentials that are refused, it is the last of its location.
        contents: What is at the location; None when that could not be found out.
        owner: Whether the store there has a living owner, which opening it would fence; None
            without a store.
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
