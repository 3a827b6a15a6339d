"""Every error that taquba raises. One root, `TaqubaError`; each names the remedy."""

from __future__ import annotations

import copy
from datetime import datetime

from taquba._model.holder import Holder
from taquba._model.redaction import redact


class TaqubaError(Exception):
    """Root of all taquba errors.

    Attributes:
        permanent: True if retrying the same call cannot help.
    """

    permanent: bool = True

    def __init__(self, *args: object) -> None:
        # A message may contain the text of a client, or a value that was refused.
        super().__init__(*(redact(arg) if type(arg) is str else arg for arg in args))

    def again(self) -> TaqubaError:
        """A copy to raise: an exception that is raised repeatedly would keep all tracebacks."""
        fresh = copy.copy(self)
        fresh.__cause__ = self.__cause__
        return fresh


class InvalidArgument(TaqubaError, ValueError):
    """A value cannot be used; nothing was written. The message names the value and the remedy."""


class InvalidArgumentType(TaqubaError, TypeError):
    """A value has the wrong type; nothing was written."""


class InvalidQueueName(InvalidArgument):
    """A queue name is empty, longer than 255 UTF-8 bytes, or holds control characters."""


class InvalidJobId(InvalidArgument):
    """A job id is not 1 to 128 characters of ``[A-Za-z0-9_-]``."""


class KvValueTooLarge(InvalidArgument):
    """A key-value entry is larger than `taquba.MAX_KV_VALUE_SIZE` bytes."""


class DuplicateJobId(TaqubaError):
    """A job with the supplied id already exists, in any state; nothing was written."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"a job with id {self.job_id!r} already exists; choose another id"


class JobNotFound(TaqubaError):
    """No job with this id exists (it was never enqueued, or it finished and was removed)."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"no job with id {self.job_id!r}: it never existed, or it finished and was removed"


class InvalidState(TaqubaError):
    """The job exists, but not in a state that allows the operation."""

    def __init__(self, job_id: str, state: str, needed: str) -> None:
        super().__init__(job_id, state, needed)
        self.job_id = job_id
        self.state = state
        self.needed = needed

    def __str__(self) -> str:
        return f"job {self.job_id!r} is {self.state}; this needs a job that is {self.needed}"


class ClaimLost(TaqubaError):
    """The claim no longer holds its job: it was settled, or its lease expired and was taken back.

    Nothing of the call was applied. Stop working on the job: somebody else may have it now.
    """

    def __init__(self, job_id: str, why: str) -> None:
        super().__init__(job_id, why)
        self.job_id = job_id
        self.why = why

    def __str__(self) -> str:
        return f"the claim on job {self.job_id!r} is lost: {self.why}"


class CancelRequested(TaqubaError):
    """The job was asked to cancel, so its lease is not extended for the caller.

    The claim is still valid: settle it with `ack`, `nack` or `dead_letter`.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"job {self.job_id!r} was asked to cancel; stop and settle it"


class PayloadMissing(TaqubaError):
    """The object that holds a job's large payload does not exist, or was not read."""

    def __init__(self, job_id: str, payload_ref: str) -> None:
        super().__init__(job_id, payload_ref)
        self.job_id = job_id
        self.payload_ref = payload_ref

    def __str__(self) -> str:
        return (
            f"the payload of job {self.job_id!r} is missing: the payload_url in use has no "
            f"object {self.payload_ref}; a listing with payloads=False does not look for it"
        )


class PayloadDamaged(PayloadMissing):
    """The object that holds a job's large payload exists, but is not as it was written."""

    def __init__(self, job_id: str, payload_ref: str, why: str) -> None:
        super().__init__(job_id, payload_ref)
        self.args = (job_id, payload_ref, why)
        self.why = why

    def __str__(self) -> str:
        return (
            f"the payload of job {self.job_id!r} is damaged: the object {self.payload_ref} is not "
            f"as it was written: {self.why}; restore it, or enqueue the job again"
        )


class QueueClosed(TaqubaError):
    """The queue was closed; open it again to continue."""

    def __str__(self) -> str:
        return "this queue is closed; open it again with Queue.open()"


class ForkedError(TaqubaError, RuntimeError):
    """A forked child used a queue, or another object of taquba, that its parent opened."""

    def __init__(self, what: str = "queue") -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"this {self.what} was opened before the process forked, and its storage threads "
            f"do not exist in the child; open a {self.what} there, or use multiprocessing's 'spawn'"
        )


class WrongEventLoop(TaqubaError, RuntimeError):
    """A queue or producer was used from a thread or event loop other than its own."""

    def __init__(self, what: str = "queue") -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"a {self.what} belongs to the event loop that opened it; from another thread use "
            "asyncio.run_coroutine_threadsafe() or anyio.from_thread.run() to reach that loop"
        )


class StoreError(TaqubaError):
    """The object store or the storage engine failed.

    Transient unless `permanent` is set: the outcome of the call is unknown, and the same call may
    succeed later. A write whose outcome is unknown is applied whole or not at all.
    """

    permanent = False

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class OutcomeUnknown(StoreError):
    """The owner ended during a call, and may have carried it out."""


class EntryChanged(TaqubaError):
    """An entry is not as `kv_expected` says, so nothing was written: read it, and decide again.

    Attributes:
        key: The entry.
    """

    permanent = False

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"the entry {self.key!r} is not as kv_expected says, so nothing was written: read it "
            "with kv_get(), and decide again"
        )


class ObjectDamaged(StoreError):
    """An object of `Queue.objects` exists, but is not as it was written under its key.

    It was read several times. Its content is not returned.
    """

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why, permanent=True)
        self.args = (key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return (
            f"the object {self.key!r} is damaged, it is not as it was written: {self.why}; "
            "restore it, or write it again"
        )


class UnreadableJob(StoreError):
    """The record of a job is damaged; it is left alone, and does not affect other jobs."""

    def __init__(self, queue: str, job_id: str, why: str) -> None:
        super().__init__(
            f"the record of job {job_id!r} of queue {queue!r} cannot be read ({why}): put the "
            "store back from a backup, or remove the job with cancel(), a dead letter with "
            "purge_dead()",
            permanent=True,
        )
        self.queue = queue
        self.job_id = job_id


class StoreFenced(TaqubaError):
    """Another owner opened this store; this one can no longer write to it.

    Only changes that this queue had already acknowledged are guaranteed. Close it.
    """

    def __str__(self) -> str:
        return (
            "another process has opened this store for writing, which fenced this queue; "
            "close it, and make sure that one owner at a time opens a store"
        )


class StoreOwned(TaqubaError):
    """A living owner has this store, and opening it would have fenced that; nothing was written.

    Attributes:
        url: The store.
        host: The machine of its owner, or None if that is unknown, like the following.
        pid: Its process.
        since: When it opened the store.
    """

    permanent = False

    def __init__(
        self,
        url: str,
        host: str | None = None,
        pid: int | None = None,
        since: datetime | None = None,
    ) -> None:
        super().__init__(url, host, pid, since)
        self.url = redact(url)
        self.host = host
        self.pid = pid
        self.since = since

    def __str__(self) -> str:
        owner = Holder(self.host, self.pid, self.since)
        return (
            f"{self.url} is open already: its owner is {owner.text()}. Take part with Service, "
            "look with QueueReader, enqueue with Producer, or fence that owner with "
            "Queue.open(..., take_over=True)"
        )


class StoreNotInitialized(TaqubaError):
    """No owner ever opened a queue here, so there is nothing to read."""

    permanent = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = redact(url)

    def __str__(self) -> str:
        return f"{self.url} holds no taquba store; open it once with Queue.open()"


class InboxNotOpen(StoreNotInitialized):
    """No owner ever opened this store with an inbox, so nobody would take the requests."""

    def __str__(self) -> str:
        return (
            f"{self.url} has no inbox: open the store once with Queue.open(..., inbox=True), "
            "or correct the URL"
        )


class OwnerUnreachable(TaqubaError):
    """No owner of the store answers on this machine, and only an owner can do that."""

    permanent = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = redact(url)

    def __str__(self) -> str:
        return (
            f"no owner of {self.url} answers on this machine: open it with "
            "producer_socket=True or run_service(), or read it with QueueReader"
        )


class ProducerClosed(TaqubaError):
    """The producer was closed; open another one to continue."""

    def __str__(self) -> str:
        return "this producer is closed; open another one with Producer.open()"


class IncompatibleStore(TaqubaError):
    """The location does not hold a store of this version; it was not changed.

    Attributes:
        layout: The layout in which it was written; None if taquba did not make it.
    """

    def __init__(self, message: str, *, layout: int | None = None) -> None:
        super().__init__(message)
        self.layout = layout
