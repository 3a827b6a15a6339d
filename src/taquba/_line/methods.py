"""The methods that other processes call on the owner."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Final

from taquba._interface.store import Store

BATCH: Final = "batch"
"""``(name, batch)``: take a batch; returns when it is durable."""

STORE: Final = "store"
"""``(name, arguments)``: carry out a method of the handle; its result, as `values` makes it."""

ABOUT: Final = "about"
"""``()``: the id of the store."""

RELEASE: Final = "release"
"""``(*tokens)``: give claims back."""

CANCELLED: Final = "cancelled"
"""Told of a claim, by its token: its job was asked to cancel."""

OVER: Final = "over"
"""Told of a claim, by its token: it no longer holds its job."""

GONE: Final = "gone"
"""The kind of failure of a former owner: there may be another one."""

CLOSED: Final = "closed"
"""The kind of failure of an owner that closes: it has not carried out the call."""


@cache
def signature_of(name: str) -> inspect.Signature:
    """What a method of the handle takes."""
    return inspect.signature(getattr(Store, name))
