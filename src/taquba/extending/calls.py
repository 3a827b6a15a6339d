"""What a package can be asked, by name, by whoever has a handle on the store.

A package decides in the process that owns the store. There it serves what it can be asked, for as
long as it runs; a caller does not have to know where that is:

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
    """The owner of the store serves no call of that name at the moment."""

    permanent = False


@contextmanager
def serving(store: Store, calls: Mapping[str, Served]) -> Generator[None]:
    """Serve calls while this is entered, to this process and to others through the owner's socket.

    Args:
        store: A handle in the process that owns the store.
        calls: Functions by name. A name begins with that of its package, as in
            ``"taquba_jobs.submit"``. Arguments and results are what MessagePack can hold; from
            another process a `TaqubaError` arrives as the name of its type and its text.

    Raises:
        InvalidArgument: One of the names is served already.
    """
    served = owner_of(store).served
    for name in calls:
        if name in served:
            raise InvalidArgument(f"the call {name!r} is served already: serve it once per store")
    served.update(calls)
    try:
        yield
    finally:
        for name in calls:
            del served[name]


async def call(store: Store, name: str, *arguments: object) -> object:
    """Call what the owner of a store serves.

    Raises:
        NotServed: Nothing of that name is served now.
    """
    owner = owner_of(store)
    await owner.enter()
    function = owner.served.get(name)
    if function is None:
        raise NotServed(
            f"the owner of {owner.location.url} does not serve the call {name!r}: start there what "
            "serves it, and call again"
        )
    return await function(*arguments)
