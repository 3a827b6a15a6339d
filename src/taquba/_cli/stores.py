"""Opening a store: to read it beside its owner, or to own it for the time of a command."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from taquba import (
    Duration,
    OwnerPresence,
    Queue,
    QueueConfig,
    QueueReader,
    StoreNotInitialized,
)
from taquba._cli.errors import CommandError, ExitCode
from taquba._objects.location import StoreLocation
from taquba._service.served import is_served

KEEP_EVERYTHING: Final = QueueConfig(keep_done_jobs=timedelta(days=36500), dead_retention=None)
"""A command must not sweep what the application's own settings keep."""


class NoStore(CommandError):
    """There is no store at the location that was named."""

    def __init__(self, store: str) -> None:
        super().__init__(f"{store} holds no taquba store", ExitCode.NOT_FOUND)


@asynccontextmanager
async def reading(
    store: str, *, every: Duration = 1, payload_url: str | None = None
) -> AsyncGenerator[QueueReader]:
    """A store opened for reading; nothing is written to it, and its owner is not disturbed."""
    try:
        reader = await QueueReader.open(
            store, mode="follow_latest", poll_interval=every, payload_url=payload_url
        )
    except StoreNotInitialized as missing:
        raise NoStore(store) from missing
    try:
        yield reader
    finally:
        await reader.close()


@asynccontextmanager
async def owning(
    store: str,
    *,
    take_over: bool,
    create: bool = False,
    payload_url: str | None = None,
    queue_configs: Mapping[str, QueueConfig] | None = None,
    heartbeat_interval: Duration | None = None,
    inbox: bool = False,
) -> AsyncGenerator[Queue]:
    """A store opened for writing, unless that would fence an owner and `take_over` is not set.

    Raises:
        CommandError: An owner lives, or may live; or there is no store and `create` is not set.
        StoreOwned: An owner came meanwhile.
    """
    _refuse_memory(store)
    await _refuse_to_disturb(store, take_over=take_over, create=create)
    async with Queue.open(
        store,
        payload_url=payload_url,
        default_config=KEEP_EVERYTHING,
        queue_configs=queue_configs,
        heartbeat_interval=heartbeat_interval,
        inbox=inbox,
        take_over=take_over,
    ) as queue:
        yield queue


async def check_joinable(store: str, *, take_over: bool, create: bool) -> None:
    """Refuse a store with an owner that lets nobody take part.

    Raises:
        CommandError: Such an owner lives, or may live and `take_over` is not set; or there is no
            store and `create` is not set.
    """
    _refuse_memory(store)
    location = StoreLocation.parse(store)
    if await is_served(location):
        return
    if location.folder is None:
        await _refuse_to_disturb(store, take_over=take_over, create=create)
        return
    try:
        async with reading(store, every=0.5) as reader:
            signs = await reader.detect_owner()
    except NoStore:
        if not create:
            raise
        return
    if signs.presence is OwnerPresence.PRESENT and not await is_served(location):
        raise CommandError(
            f"an owner is running: {signs.reason}. It lets no other process take part; stop it, or "
            "let it be a Service",
            ExitCode.REFUSED,
        )


def _refuse_memory(store: str) -> None:
    if store.startswith("memory:"):
        raise CommandError(
            f"a store in memory ends with its process, so {store} cannot be written from here; "
            "name a folder or a bucket",
            ExitCode.USAGE,
        )


async def _refuse_to_disturb(store: str, *, take_over: bool, create: bool) -> None:
    try:
        async with reading(store, every=0.5) as reader:
            if take_over:
                return
            signs = await reader.detect_owner()
    except NoStore:
        if not create:
            raise
        return
    if signs.presence is OwnerPresence.PRESENT:
        raise CommandError(
            f"an owner is running: {signs.reason}. Opening {store} would fence it; stop it first, "
            "or give --take-over",
            ExitCode.REFUSED,
        )
    if signs.presence is OwnerPresence.UNKNOWN:
        raise CommandError(
            f"an owner may live: {signs.reason}. Opening {store} would fence it; give --take-over "
            "if it is gone",
            ExitCode.REFUSED,
        )
