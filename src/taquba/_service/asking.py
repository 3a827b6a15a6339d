"""The methods of a handle that an owner carries out, in this process or another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Concatenate, ParamSpec, TypeVar

from taquba._interface.claim import Claim
from taquba._interface.store import Store
from taquba._model.options import SettlementEffects
from taquba._model.records import (
    CancelOutcome,
    EnqueueResult,
    InboxStats,
    JobAttempt,
    JobPage,
    JobRecord,
    JobStatus,
    K,
    KvPage,
    Member,
    NackOutcome,
    QueueStats,
    RejectedBatch,
    WaitOutcome,
    WakeOutcome,
)
from taquba._model.validate import Duration, KvKey
from taquba._worker.source import HasSources

T = TypeVar("T")
Q = ParamSpec("Q")


class AskingStore(HasSources):
    """A handle that has the owner carry out whatever is asked, whichever process that is."""

    @abstractmethod
    async def _do(
        self,
        method: Callable[Concatenate[Store, Q], Awaitable[T]],
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T:
        """Carry out a method of the handle, here or in the process of the owner."""

    async def claim_batch(
        self,
        queue: str,
        max_jobs: int,
        *,
        lease: Duration | None = None,
        wait: Duration | None = None,
    ) -> list[Claim]:
        return await self._do(Store.claim_batch, queue, max_jobs, lease=lease, wait=wait)

    async def wait_for_jobs_on(self, *queues: str, timeout: Duration) -> bool:
        return await self._do(Store.wait_for_jobs_on, *queues, timeout=timeout)

    async def ack(
        self, claim: Claim, effects: SettlementEffects | None = None
    ) -> list[EnqueueResult]:
        return await self._do(Store.ack, claim, effects)

    async def nack(
        self, claim: Claim, error: str, effects: SettlementEffects | None = None
    ) -> NackOutcome:
        return await self._do(Store.nack, claim, error, effects)

    async def dead_letter(
        self, claim: Claim, reason: str, effects: SettlementEffects | None = None
    ) -> list[EnqueueResult]:
        return await self._do(Store.dead_letter, claim, reason, effects)

    async def renew_lease(self, claim: Claim, extension: Duration) -> datetime:
        return await self._do(Store.renew_lease, claim, extension)

    async def lease_expiry(self, claim: Claim | str) -> datetime | None:
        return await self._do(Store.lease_expiry, claim)

    async def cancel(self, job_id: str, effects: SettlementEffects | None = None) -> CancelOutcome:
        return await self._do(Store.cancel, job_id, effects)

    async def wake_scheduled(
        self, job_id: str, payload: bytes | None = None, *, if_unbegun: bool = False
    ) -> WakeOutcome:
        return await self._do(Store.wake_scheduled, job_id, payload, if_unbegun=if_unbegun)

    async def requeue_dead(self, job_id: str) -> None:
        await self._do(Store.requeue_dead, job_id)

    async def purge_dead(self, job_id: str) -> None:
        await self._do(Store.purge_dead, job_id)

    async def wait_for_completion(self, job_id: str, timeout: Duration) -> WaitOutcome:
        return await self._do(Store.wait_for_completion, job_id, timeout)

    async def members(self) -> list[Member]:
        return await self._do(Store.members)

    async def kv_put(self, key: KvKey, value: bytes) -> None:
        await self._do(Store.kv_put, key, value)

    async def kv_delete(self, key: KvKey) -> None:
        await self._do(Store.kv_delete, key)

    async def kv_compare_put(self, key: KvKey, expected: bytes | None, value: bytes) -> bool:
        return await self._do(Store.kv_compare_put, key, expected, value)

    async def kv_compare_delete(self, key: KvKey, expected: bytes) -> bool:
        return await self._do(Store.kv_compare_delete, key, expected)

    async def kv_get(self, key: KvKey, *, durable: bool = False) -> bytes | None:
        return await self._do(Store.kv_get, key, durable=durable)

    async def kv_scan(self, prefix: K, cursor: str | None = None, limit: int = 100) -> KvPage[K]:
        return await self._do(Store.kv_scan, prefix, cursor, limit)

    async def stats(self, queue: str) -> QueueStats:
        return await self._do(Store.stats, queue)

    async def list_queues(self) -> list[str]:
        return await self._do(Store.list_queues)

    async def get_job(self, job_id: str) -> JobRecord | None:
        return await self._do(Store.get_job, job_id)

    async def list_jobs(
        self,
        queue: str,
        status: JobStatus | str,
        cursor: str | None = None,
        limit: int = 100,
        *,
        payloads: bool = True,
    ) -> JobPage:
        return await self._do(Store.list_jobs, queue, status, cursor, limit, payloads=payloads)

    async def attempt_history(self, job_id: str) -> list[JobAttempt]:
        return await self._do(Store.attempt_history, job_id)

    async def inbox_stats(self) -> InboxStats:
        return await self._do(Store.inbox_stats)

    async def rejected_batches(self, limit: int = 100) -> list[RejectedBatch]:
        return await self._do(Store.rejected_batches, limit)
