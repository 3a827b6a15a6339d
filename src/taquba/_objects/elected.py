"""The process that is elected to own a store, as seen by one that does not stand for election."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Final

from taquba._model.codec import UNREADABLE
from taquba._model.holder import Holder
from taquba._objects.client import Client
from taquba._objects.election_in_bucket import (
    TAKEOVER_SECONDS,
    Seen,
    Watch,
    read_lease,
)
from taquba._objects.holder_text import holder_in
from taquba._objects.location import StoreLocation
from taquba._objects.problems import Problem

_LONG_DEAD: Final = timedelta(hours=1)
"""After so long without a sign of life nobody waits for one. Clocks differ by far less; if they do
not, a living holder is not seen."""

_SHORTEST: Final = 0.1
_LONGEST: Final = 1800.0
"""Bounds of what a lease may say about itself, in seconds."""

_LOOKS: Final = 9
"""How often the lease is looked at within the time for which it lasts: its holder renews it three
times."""


async def elected_process(location: StoreLocation) -> Holder | None:
    """The process that holds the lease on a bucket's store; None if it does not live.

    This takes one request, unless the lease has a holder: then it is watched until that gives a
    sign of life, or is as good as dead to the other candidates.

    Raises:
        StoreError: The store cannot be reached or read.
    """
    try:
        client = await Client.connect(location)
        return await _watch(client)
    except Problem as problem:
        raise problem.as_error(location) from problem


async def was_elected(location: StoreLocation) -> bool:
    """Whether the last owner of a bucket's store was elected, and did not resign.

    If it does not live, another candidate takes its place in time.

    Raises:
        StoreError: The store cannot be reached or read.
    """
    try:
        client = await Client.connect(location)
        seen = await client.ask("read", lambda: read_lease(client), client.patience)
    except Problem as problem:
        raise problem.as_error(location) from problem
    return seen is not None and bool(seen.holder)


async def _watch(client: Client) -> Holder | None:
    time = asyncio.get_running_loop().time
    now = time()
    first = seen = await _look(client)
    if first is None:
        return None
    lasts = _lasts(first)
    watch = Watch(lasts)
    while seen is not None and not watch.may_take(seen, now):
        if seen.version != first.version:
            return holder_in(seen.content)
        await asyncio.sleep(lasts / _LOOKS)
        now = time()
        seen = await _look(client)
    return None


async def _look(client: Client) -> Seen | None:
    """The lease, if it has a holder that may live."""
    seen = await client.ask("read", lambda: read_lease(client), client.patience)
    if seen is None or not seen.holder:
        return None
    dead = seen.written is not None and datetime.now(UTC) - seen.written > _LONG_DEAD
    return None if dead else seen


def _lasts(seen: Seen) -> float:
    try:
        # In this order: whatever is compared with what is not a number is not greater.
        return min(max(_SHORTEST, float(json.loads(seen.content)[TAKEOVER_SECONDS])), _LONGEST)
    except UNREADABLE:
        return _SHORTEST
