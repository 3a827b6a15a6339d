"""The requirements on an object store, each tested by a function.

The functions return if the store meets the requirement, and raise `Problem` if it does not. A
result that may have been a single wrong answer is a `Doubt`; `settle` repeats the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from taquba._objects.location import StoreLocation, make_folder
from taquba._objects.probe import Doubt, Probe, probing
from taquba._objects.problems import Problem

T = TypeVar("T")

_RIVALS: Final = 8
_TRIES: Final = 3
"""How often a store may leave a doubt."""

_SAMPLES: Final = ("first", "second", "third")
"""Each kind of request is sent this often, so that the median says more than the first one, which
also has to connect."""

_NEEDS_CREATE: Final = (
    "two owners could overwrite each other's commits on it: use a store that honours "
    "If-None-Match: * on writes, or a version of this one that does"
)
_NEEDS_UPDATE: Final = (
    "the store would grow without end, because old manifests could not be removed: use one that "
    'honours If-Match: "etag" on writes'
)
_NEEDS_CONSISTENCY: Final = (
    "a new owner would miss acknowledged changes of the former one: use a store whose listings and "
    "reads show a write as soon as it is acknowledged, without a cache in between"
)
_NEEDS_DELETE: Final = (
    "the store would grow without end: allow these credentials to delete, and turn retention "
    "locks off for this prefix"
)


async def check_new_store(location: StoreLocation) -> None:
    """Make the cheap test before the first write to a new store: four requests in three rounds.

    Raises:
        StoreError: The location cannot hold a store; the message names the problem.
    """
    if location.folder is not None:
        await asyncio.to_thread(make_folder, location.folder)
    try:
        async with probing(location) as probe:
            await settle(probe, _serves)
    except Problem as problem:
        raise problem.as_error(location) from problem


async def settle(probe: Probe, attempt: Callable[[Probe], Awaitable[object]]) -> None:
    """Test one requirement, and once more if a doubt remains."""
    for _ in range(_TRIES - 1):
        try:
            await attempt(probe)
        except Doubt:
            probe.start_anew()
        else:
            return
    await attempt(probe)


async def _serves(probe: Probe) -> None:
    await _create(probe, "only")
    await _all(_create_again(probe, "only"), _find(probe, "only"))
    await _delete(probe, "only")


async def writes(probe: Probe) -> None:
    """Objects can be written."""
    for name in _SAMPLES:
        await probe.overwrite(name, name.encode())


async def creates_once(probe: Probe) -> None:
    """An object is created once: a second create is refused and changes nothing."""
    await _create(probe, "once")
    await _create_again(probe, "once")
    if await _read(probe, "once") != b"once":
        raise Problem("a create that was refused changed the object", _NEEDS_CREATE)


async def lets_one_rival_create(probe: Probe) -> None:
    """Of several concurrent creates of one object, one succeeds."""
    rivals = [b"%d" % number for number in range(_RIVALS)]
    created = await _all(*(probe.create("rivals", rival) for rival in rivals))
    winners = [rival for rival, won in zip(rivals, created, strict=True) if won]
    if len(winners) != 1:
        kind = Problem if winners else Doubt
        raise kind(
            f"{len(winners)} of {_RIVALS} concurrent creates of one object were accepted",
            _NEEDS_CREATE,
        )
    if await _read(probe, "rivals") != winners[0]:
        raise Problem("a concurrent create that was refused changed the object", _NEEDS_CREATE)


async def updates_current_version(probe: Probe) -> None:
    """An object can be replaced only by a request that names its current version."""
    await _create(probe, "versions")
    first = probe.version("versions")
    if first is None or not await probe.update("versions", b"second", first):
        raise Doubt("an update of the current version was refused", _NEEDS_UPDATE)
    if await probe.update("versions", b"third", first):
        raise Problem("an update of a version that is not current was accepted", _NEEDS_UPDATE)


async def reads_what_was_written(probe: Probe) -> None:
    """Reads return the new content of an object at once, even if they returned another before."""
    for content in _SAMPLES:
        await probe.overwrite("reads", content.encode())
        if await _read(probe, "reads") != content.encode():
            raise Problem("a read did not return an object just written", _NEEDS_CONSISTENCY)


async def lists_what_was_written(probe: Probe) -> None:
    """A listing contains each object as soon as it was written."""
    for name in _SAMPLES:
        await _create(probe, f"list-{name}")
        await _find(probe, f"list-{name}")


async def forgets_what_was_deleted(probe: Probe) -> None:
    """Removed objects are no longer read or listed."""
    names = [f"delete-{name}" for name in _SAMPLES]
    for name in names:
        await probe.overwrite(name, b"")
        await _delete(probe, name)
        if await probe.read(name) is not None:
            raise Doubt("an object can be read after it was deleted", _NEEDS_DELETE)
    if await probe.names() & set(names):
        raise Doubt("an object is listed after it was deleted", _NEEDS_DELETE)


async def _create(probe: Probe, name: str) -> None:
    created = await probe.create(name, name.encode())
    # Where the answer to a first try got lost, the next one is refused: the object is ours.
    if not created and await probe.read(name) != name.encode():
        raise Doubt("a new object was refused because it already exists", _NEEDS_CREATE)


async def _create_again(probe: Probe, name: str) -> None:
    if await probe.create(name, b"again"):
        raise Problem("an object that exists was created again", _NEEDS_CREATE)


async def _read(probe: Probe, name: str) -> bytes:
    found = await probe.read(name)
    if found is None:
        raise Doubt("a read did not find an object just written", _NEEDS_CONSISTENCY)
    return found


async def _delete(probe: Probe, name: str) -> None:
    try:
        await probe.delete(name)
    except Problem as problem:
        if problem.permanent or problem.one_action:
            raise Problem(problem.what, _NEEDS_DELETE) from problem
        raise


async def _find(probe: Probe, name: str) -> None:
    if name not in await probe.names():
        raise Doubt("a listing did not contain an object just written", _NEEDS_CONSISTENCY)


async def _all(*requests: Awaitable[T]) -> list[T]:
    """Wait for all of them, also when one fails: none may write after the cleaning up."""
    results = await asyncio.gather(*requests, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
