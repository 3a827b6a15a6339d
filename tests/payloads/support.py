"""Looking at the objects of a store, below its facade."""

from __future__ import annotations

from collections.abc import Callable

from taquba import Queue


async def payload_objects(queue: Queue) -> set[str]:
    """References of all payload objects there are, once those that are to go have gone."""
    payloads = queue._owner.payloads
    while payloads._is_removing:
        assert payloads._removing is not None
        await payloads._removing
    return {
        info.key.rpartition("/")[2]
        async for page in payloads._objects.list(payloads._prefix)
        for info in page
    }


async def payload_contents(queue: Queue) -> dict[str, bytes]:
    """Every payload object by its reference, at this moment."""
    payloads = queue._owner.payloads
    refs = [
        info.key.rpartition("/")[2]
        async for page in payloads._objects.list(payloads._prefix)
        for info in page
    ]
    found = {ref: await payloads.fetch(ref) for ref in refs}
    return {ref: content for ref, content in found.items() if content is not None}


async def referred(queue: Queue, name: str = "q") -> set[str]:
    """References in all records of a queue."""
    return {
        job.payload_ref
        for status in ("pending", "scheduled", "claimed", "done", "dead")
        for job in (await queue.list_jobs(name, status, limit=10_000, payloads=False)).jobs
        if job.payload_ref is not None
    }


async def remove_payload(queue: Queue, job_id: str) -> None:
    """Remove a job's payload object, as an accident would."""
    payloads = queue._owner.payloads
    refs = [ref for ref in await payload_objects(queue) if ref.startswith(f"{job_id}.")]
    assert refs
    await payloads._objects.delete([f"{payloads._prefix}/{ref}" for ref in refs])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "only its end": lambda data: data[len(data) // 2 :],
    "emptied": lambda data: b"",
    "grown": lambda data: data + b"\0",
    "twice": lambda data: data * 2,
    "zeros": lambda data: bytes(len(data)),
    "first bit": lambda data: _flipped(data, 0),
    "a bit in the middle": lambda data: _flipped(data, len(data) // 2),
    "last bit": lambda data: _flipped(data, len(data) - 1),
}
"""What a store, a disk or a stranger may do to an object."""


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


async def damage(queue: Queue, part: str, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    """Change each object whose key has `part` in it; returns what they were."""
    space = queue._owner.payloads._objects
    found = [info.key async for page in space.list("") for info in page if part in info.key]
    assert found
    before: dict[str, bytes] = {}
    for key in found:
        content = await space.get(key)
        assert content is not None
        before[key] = content
        await space.put(key, change(content))
    return before


async def exchange(queue: Queue, part: str) -> None:
    """Have two objects whose keys have `part` in them change places."""
    contents = await damage(queue, part, lambda data: data)
    (one, first), (other, second) = contents.items()
    await queue._owner.payloads._objects.put(one, second)
    await queue._owner.payloads._objects.put(other, first)


async def put_right(queue: Queue, before: dict[str, bytes]) -> None:
    """Undo `damage`."""
    for key, content in before.items():
        await queue._owner.payloads._objects.put(key, content)
