"""An object as listings show it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from obstore import ObjectMeta


class ObjectInfo(NamedTuple):
    """An object in a listing.

    Attributes:
        key: Its key.
        size: Bytes.
        modified_at: When it was written, by the store's clock; aware, UTC.
    """

    key: str
    size: int
    modified_at: datetime


def listed(meta: ObjectMeta) -> ObjectInfo:
    """An object as the client lists it."""
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"])
