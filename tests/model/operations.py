"""Operations that run on a queue and on the model, and a search for an order that explains them.

Each operation knows how to run on the real queue, which answers with an *outcome* (a plain value,
or the name of the error), and how to happen in the model, which says whether that outcome is what
it had to be.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from taquba import Claim, EnqueueRequest, EnqueueResult, Queue, SettlementEffects, TaqubaError
from taquba._queue import settling
from tests.model.plain_model import Effects, Model, Request, Results

SNOOZE = 3000
"""How long jobs are snoozed, ms."""


@dataclass(frozen=True)
class Handle:
    """A claim that was handed out, under the name that the model knows it by."""

    name: int
    claim: Claim
    queue: Queue


@dataclass
class Operation(ABC):
    turns: int = field(default=0, kw_only=True)
    """Turns of the event loop to wait before it starts, where several run at once."""

    durable = True
    """Whether everything that was applied before is durable when it succeeds."""

    async def run(self, queue: Queue) -> Any:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        try:
            return await self._run(queue)
        except TaqubaError as error:
            return type(error).__name__

    @abstractmethod
    async def _run(self, queue: Queue) -> Any: ...

    @abstractmethod
    def explains(self, model: Model, outcome: Any) -> bool:
        """Happen in the model; False when the outcome should have been another."""


def _request(request: Request) -> EnqueueRequest:
    return EnqueueRequest(
        request.queue,
        request.payload,
        delay=request.delay / 1000 if request.delay else None,
        priority=request.priority,
        max_attempts=request.max_attempts,
        dedup_key=request.dedup_key,
        headers=dict(request.headers) or None,
        job_id=request.job_id,
        kv_writes=dict(request.entries) or None,
    )


def _effects(effects: Effects) -> SettlementEffects | None:
    if effects == Effects():
        return None
    return SettlementEffects(
        enqueues=[_request(request) for request in effects.requests],
        kv_writes=dict(effects.writes),
        kv_deletes=effects.deletes,
    )


def _plain(results: Sequence[EnqueueResult]) -> Results:
    return [(result.id, result.new) for result in results]


@dataclass
class Enqueue(Operation):
    requests: list[Request]
    batch: bool

    async def _run(self, queue: Queue) -> Results:
        if self.batch:
            return _plain(await queue.enqueue_batch([_request(one) for one in self.requests]))
        (request,) = self.requests
        result = await queue.enqueue(
            request.queue,
            request.payload,
            delay=request.delay / 1000 if request.delay else None,
            priority=request.priority,
            max_attempts=request.max_attempts,
            dedup_key=request.dedup_key,
            headers=dict(request.headers) or None,
            job_id=request.job_id,
            kv_writes=dict(request.entries) or None,
        )
        return _plain([result])

    def explains(self, model: Model, outcome: Results | str) -> bool:
        return model.enqueue(self.requests, outcome) == outcome


@dataclass
class TakeJobs(Operation):
    """Claim, one or a batch."""

    queue: str
    limit: int
    lease: int | None
    name: Callable[[Claim, Queue], int]
    durable = False

    async def _run(self, queue: Queue) -> list[tuple[str, int, int]]:
        lease = None if self.lease is None else self.lease / 1000
        if self.limit == 1:
            claim = await queue.claim(self.queue, lease=lease)
            claims = [] if claim is None else [claim]
        else:
            claims = await queue.claim_batch(self.queue, self.limit, lease=lease)
        return [(claim.id, claim.attempts, self.name(claim, queue)) for claim in claims]

    def explains(self, model: Model, outcome: list[tuple[str, int, int]] | str) -> bool:
        if isinstance(outcome, str):
            return False
        # A batch may be smaller than what is pending, but not empty, and it skips nothing.
        waiting = len(model.claimable(self.queue))
        least = 0 if model.held_back(self.queue) else min(waiting, 1)
        if not least <= len(outcome) <= min(waiting, self.limit):
            return False
        taken = model.claim(self.queue, self.lease, [name for _, _, name in outcome])
        return [(job.id, job.attempts) for job in taken] == [
            (job_id, attempts) for job_id, attempts, _ in outcome
        ]


@dataclass
class _OnClaim(Operation, ABC):
    handle: Handle

    async def run(self, queue: Queue) -> Any:
        self.foreign = self.handle.queue is not queue
        return await super().run(queue)

    def explains(self, model: Model, outcome: Any) -> bool:
        if self.foreign:
            return bool(outcome == "InvalidArgument")
        return self._explains(model, self.handle.claim.id, self.handle.name, outcome)

    @abstractmethod
    def _explains(self, model: Model, job_id: str, name: int, outcome: Any) -> bool: ...


@dataclass
class Ack(_OnClaim):
    effects: Effects

    async def _run(self, queue: Queue) -> Results:
        return _plain(await queue.ack(self.handle.claim, _effects(self.effects)))

    def _explains(self, model: Model, job_id: str, name: int, outcome: Results | str) -> bool:
        return model.ack(job_id, name, self.effects, outcome) == outcome


@dataclass
class Nack(_OnClaim):
    effects: Effects

    async def _run(self, queue: Queue) -> tuple[bool, Results]:
        outcome = await queue.nack(self.handle.claim, "failed", _effects(self.effects))
        return outcome.retried, _plain(outcome.enqueued)

    def _explains(
        self, model: Model, job_id: str, name: int, outcome: tuple[bool, Results] | str
    ) -> bool:
        if isinstance(outcome, str):
            return model.nack(job_id, name, "failed", self.effects, outcome) == outcome
        retried, results = outcome
        if model.nack(job_id, name, "failed", self.effects, results) != results:
            return False
        return retried == (model.jobs[job_id].state != "dead")


@dataclass
class Snooze(_OnClaim):
    """What a worker loop does when a handler raises `taquba.Snooze`; effects have no part in it."""

    effects: Effects

    async def _run(self, queue: Queue) -> Results:
        await settling.snooze(queue._owner, self.handle.claim, "busy", SNOOZE)
        return []

    def _explains(self, model: Model, job_id: str, name: int, outcome: Results | str) -> bool:
        return model.snooze(job_id, name, "busy", SNOOZE) == outcome


@dataclass
class DeadLetter(_OnClaim):
    effects: Effects

    async def _run(self, queue: Queue) -> Results:
        return _plain(await queue.dead_letter(self.handle.claim, "bad", _effects(self.effects)))

    def _explains(self, model: Model, job_id: str, name: int, outcome: Results | str) -> bool:
        return model.dead_letter(job_id, name, "bad", self.effects, outcome) == outcome


@dataclass
class Renew(_OnClaim):
    extension: int
    durable = False

    async def _run(self, queue: Queue) -> int:
        expiry = await queue.renew_lease(self.handle.claim, self.extension / 1000)
        return round(expiry.timestamp() * 1000)

    def _explains(self, model: Model, job_id: str, name: int, outcome: int | str) -> bool:
        return model.renew(job_id, name, self.extension) == outcome


@dataclass
class Cancel(Operation):
    job_id: str
    effects: Effects

    async def _run(self, queue: Queue) -> str:
        return (await queue.cancel(self.job_id, _effects(self.effects))).value

    def explains(self, model: Model, outcome: str) -> bool:
        return model.cancel(self.job_id, self.effects, outcome) == outcome


@dataclass
class Wake(Operation):
    job_id: str
    payload: bytes | None

    async def _run(self, queue: Queue) -> str:
        return (await queue.wake_scheduled(self.job_id, self.payload)).value

    def explains(self, model: Model, outcome: str) -> bool:
        return model.wake(self.job_id, self.payload) == outcome


@dataclass
class Requeue(Operation):
    job_id: str

    async def _run(self, queue: Queue) -> str:
        await queue.requeue_dead(self.job_id)
        return "requeued"

    def explains(self, model: Model, outcome: str) -> bool:
        return model.requeue(self.job_id) == outcome


@dataclass
class Purge(Operation):
    job_id: str

    async def _run(self, queue: Queue) -> str:
        await queue.purge_dead(self.job_id)
        return "purged"

    def explains(self, model: Model, outcome: str) -> bool:
        return model.purge(self.job_id) == outcome


@dataclass
class Write(Operation):
    """Put an entry, or delete it."""

    key: bytes
    value: bytes | None

    async def _run(self, queue: Queue) -> None:
        if self.value is None:
            await queue.kv_delete(self.key)
        else:
            await queue.kv_put(self.key, self.value)

    def explains(self, model: Model, outcome: None) -> bool:
        model.write(self.key, self.value)
        return outcome is None


@dataclass
class CompareWrite(Operation):
    key: bytes
    expected: bytes | None
    value: bytes | None

    async def _run(self, queue: Queue) -> bool:
        if self.value is None and self.expected is not None:
            return await queue.kv_compare_delete(self.key, self.expected)
        return await queue.kv_compare_put(self.key, self.expected, self.value or b"")

    def explains(self, model: Model, outcome: bool) -> bool:
        value = self.value
        if self.expected is None and value is None:
            value = b""
        return model.compare_write(self.key, self.expected, value) is outcome


@dataclass
class DueNow(Operation):
    """What the background loops do, done by hand while they do it too."""

    durable = False

    async def _run(self, queue: Queue) -> None:
        await asyncio.gather(
            queue.promote_scheduled_now(), queue.reap_now(), queue.sweep_now(), queue.sweep_now()
        )

    def explains(self, model: Model, outcome: None) -> bool:
        return outcome is None


def succeeded(operation: Operation, outcome: Any) -> bool:
    """Whether the operation wrote something and waited for it."""
    if isinstance(operation, (Cancel, Wake)):
        return outcome in ("removed", "requested", "woken")
    if isinstance(operation, CompareWrite):
        return outcome is True
    return operation.durable and (not isinstance(outcome, str) or outcome == "requeued")


def explain(
    model: Model,
    ran: Sequence[tuple[Operation, Any]],
    fits: Callable[[Model], bool],
) -> list[Model] | None:
    """Find an order of operations in which the model gives the same outcomes and ends as `fits`.

    Returns:
        The model after each operation of that order, or None when no order explains what happened.
    """
    if not ran:
        return [] if fits(model) else None
    for position, (operation, outcome) in enumerate(ran):
        after = model.copy()
        if operation.explains(after, outcome):
            rest = explain(after, [*ran[:position], *ran[position + 1 :]], fits)
            if rest is not None:
                return [after, *rest]
    return None
