"""Calls of a package, by name, from any process with a handle on the store.

A package makes its decisions in the process that owns the store. There it serves its calls for as
long as it runs; a caller need not know where that is:

    with serving(store, {"example.count": count}):
        assert await call(store, "example.count", "words") == 3
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from taquba._interface.store import Store
from taquba._model.errors import InvalidArgument, TaqubaError
from taquba._queue.owner import Served, owner_of

__all__ = ["NotServed", "Served", "call", "serving"]


class NotServed(TaqubaError):
    """The owner of the store does not serve a call of that name at the moment."""

    permanent = False


@contextmanager
def serving(store: Store, calls: Mapping[str, Served]) -> Generator[None]:
    """Serve calls for the length of a block: to this process, and to others through the socket.

    Args:
        store: A handle in the process that owns the store.
        calls: Functions by name. A name begins with that of its package, as in
            ``"taquba_jobs.submit"``. Arguments and results must be values that MessagePack can
            hold; a caller in another process receives a `TaqubaError` as the name of its type and
            its text.

    Raises:
        InvalidArgument: One of the names is already served.
    """
    served = owner_of(store).served
    for name in calls:
        if name in served:
            raise InvalidArgument(f"the call {name!r} is already served: serve it once per store")
    served.update(calls)
    try:
        yield
    finally:
        for name in calls:
            del served[name]


async def call(store: Store, name: str, *arguments: object) -> object:
    """Call a function that the owner of a store serves.

    Raises:
        NotServed: No call of that name is served at the moment.
    """
    owner = owner_of(store)
    await owner.enter()
    function = owner.served.get(name)
    if function is None:
        raise NotServed(
            f"the owner of {owner.location.url} does not serve the call {name!r}: start the part "
            "of the program that serves it there, and call again"
        )
    return await function(*arguments)
