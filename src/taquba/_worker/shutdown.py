"""The event that asks a loop to end."""

from __future__ import annotations

import asyncio

import anyio

from taquba._model.errors import InvalidArgumentType

Shutdown = anyio.Event | asyncio.Event
"""What ends a loop when it is set."""


def check_shutdown(shutdown: Shutdown | None) -> None:
    """Refuse any other event: the ``wait()`` of a thread's, for example, would block the loop."""
    if shutdown is not None and not isinstance(shutdown, (anyio.Event, asyncio.Event)):
        raise InvalidArgumentType(
            f"shutdown must be an anyio.Event or asyncio.Event, not {shutdown!r}"
        )
