"""Looking at the objects of a store, below its facade."""

from __future__ import annotations

from taquba import Queue


async def payload_objects(queue: Queue) -> set[str]:
    """References of all payload objects there are, once those that are to go have gone."""
    payloads = queue._core.payloads
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
    payloads = queue._core.payloads
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
    payloads = queue._core.payloads
    refs = [ref for ref in await payload_objects(queue) if ref.startswith(f"{job_id}.")]
    assert refs
    await payloads._objects.delete([f"{payloads._prefix}/{ref}" for ref in refs])
