"""The methods of a handle, carried out for other processes, and the claims that they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

from taquba._interface.claim import lease_of
from taquba._interface.store import Store
from taquba._line import methods
from taquba._line.connection import Connection, Large, Refused
from taquba._line.values import Unreadable, dump_error, dump_result, load_arguments
from taquba._model import validate
from taquba._model.batch import shortened
from taquba._model.errors import ClaimLost, QueueClosed, StoreFenced, TaqubaError
from taquba._model.records import JobRecord, JobStatus, WaitOutcome
from taquba._model.validate import Duration
from taquba._queue import claims, control, payload_reads
from taquba._queue.claims import OwnedClaim
from taquba._queue.holders import Holders
from taquba._queue.owner import Owner

_PLAIN: Final = (
    "enqueue",
    "enqueue_batch",
    "cancel",
    "wake_scheduled",
    "requeue_dead",
    "purge_dead",
    "wait_for_completion",
    "stats",
    "list_queues",
    "get_job",
    "list_jobs",
    "attempt_history",
    "kv_get",
    "kv_put",
    "kv_delete",
    "kv_compare_put",
    "kv_compare_delete",
    "kv_scan",
    "inbox_stats",
    "rejected_batches",
    "members",
)
_OF_CLAIMS: Final = ("ack", "nack", "dead_letter", "renew_lease", "lease_expiry")
_LARGE: Final = ("get_job", "list_jobs", "kv_scan", "attempt_history", "members")
"""Their results may be large; each is loaded when there is room for it."""

_KNOWN: Final = frozenset((*_PLAIN, *_OF_CLAIMS, "claim_batch"))

_AT_ONCE_BYTES: Final = 64 * 1024
"""Takes at most a few milliseconds."""


class HandleCalls:
    """Carries out the methods of a handle.

    Args:
        owner: The owner of the store.
        store: Its handle.
        holders: The processes that hold claims.
    """

    def __init__(self, owner: Owner, store: Store, holders: Holders) -> None:
        self._owner = owner
        self._store = store
        self._holders = holders

    async def carry_out(self, connection: Connection, name: str, data: bytes) -> object:
        """Carry out a method; its result as bytes, or a `Large`."""
        try:
            arguments = (
                load_arguments(data)
                if len(data) <= _AT_ONCE_BYTES
                else await asyncio.to_thread(load_arguments, data)
            )
        except Unreadable as error:
            raise Refused("Unreadable", str(error)) from None
        if name == "wait_for_jobs_on":
            result: object = await self._wait_for_jobs(arguments)
        elif name not in _KNOWN:
            raise Refused("UnknownCall", f"{name!r:.50}")
        else:
            _check(name, arguments)
            if name in _LARGE:
                return Large(partial(self._result, name, arguments))
            if name == "wait_for_completion":
                return await self._wait_for_completion(**cast("dict[str, Any]", arguments))
            if name == "claim_batch":
                result = await self._claim(connection, arguments)
            elif name in _OF_CLAIMS and isinstance(arguments["claim"], list):
                result = await self._settle(connection, name, arguments)
            else:
                result = await getattr(self._store, name)(**arguments)
        return dump_result(result)

    async def _result(self, name: str, arguments: dict[str, Any]) -> bytes:
        with as_refusals():
            return dump_result(await getattr(self._store, name)(**arguments))

    async def _wait_for_completion(self, job_id: str, timeout: Duration) -> object:
        """Wait, and only then find room for the job's record."""
        timeout_ms = validate.duration_ms(timeout, "timeout")
        validate.job_id(job_id)
        outcome = await control.wait_for_completion(self._owner, job_id, timeout_ms, with_job=False)
        if not outcome.completed:
            return dump_result(outcome)

        async def with_record() -> bytes:
            with as_refusals():
                return dump_result(WaitOutcome(outcome.status, await self._store.get_job(job_id)))

        return Large(with_record)

    async def _wait_for_jobs(self, arguments: dict[str, Any]) -> bool:
        queues = arguments.pop("queues", ())
        if not isinstance(queues, tuple) or list(arguments) != ["timeout"]:
            raise Refused("UnknownCall", "wait_for_jobs_on with other arguments")
        names = cast("tuple[str, ...]", queues)
        return await self._store.wait_for_jobs_on(*names, timeout=arguments["timeout"])

    async def _claim(self, connection: Connection, arguments: dict[str, Any]) -> object:
        await self._owner.enter()
        holder = self._holders.of(connection)
        found = await payload_reads.claim_for(self._owner, holder.name, **arguments)
        if not found:
            return []
        try:
            await holder.be_known()
        except BaseException:
            claims.release(self._owner, list(map(lease_of, found)), claims.ABANDONED)
            raise
        if connection.ended:
            claims.release(self._owner, list(map(lease_of, found)), claims.ABANDONED)
            return []
        return [[holder.take(lease_of(claim)), _as_claimed(claim)] for claim in found]

    async def _settle(self, connection: Connection, name: str, arguments: dict[str, Any]) -> object:
        match arguments["claim"]:
            case [int() as token, str() as job_id]:
                pass
            case _:
                raise Refused("UnknownCall", "a claim is its token and the id of its job")
        try:
            claim = self._holders.of(connection).claim(token, job_id)
        except ClaimLost:
            if name == "lease_expiry":
                return None
            raise
        return await getattr(self._store, name)(**{**arguments, "claim": claim})


def _as_claimed(claim: OwnedClaim) -> JobRecord:
    # The lease knows whether the job was asked to cancel since then, the claim has its payload.
    job = lease_of(claim).job._replace(payload=claim.payload)
    return JobRecord(job, JobStatus.CLAIMED)


@contextmanager
def as_refusals() -> Generator[None]:
    """Convert errors of a queue's methods to the form that goes over the socket."""
    try:
        yield
    except QueueClosed as error:
        # What was submitted before is written, and answered.
        raise Refused(methods.CLOSED, str(error)) from error
    except StoreFenced as error:
        raise Refused(methods.GONE, str(error)) from error
    except TaqubaError as error:
        kind, state, text = dump_error(error)
        raise Refused(kind, state, shortened(text)) from error


def _check(name: str, arguments: dict[str, object]) -> None:
    """Refuse arguments that the method does not take."""
    try:
        methods.parameters_of(name).bind((), arguments)
    except TypeError as error:
        raise Refused("UnknownCall", f"{name}: {error!s:.200}") from None
