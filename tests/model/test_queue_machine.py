"""The whole queue against the plain model, with the store read raw after every step.

The store is real and survives in memory from one owner to the next. Ready windows hold a handful
of rows and every background round moves a few, so horizons, refills and second rounds happen all
the time. Where several operations run at once, some order of them has to explain every answer
and the rows that are left.

What is drawn never depends on what the queue did (a pick is a number, not a job): the engine has
threads of its own, and a replay must ask for the same examples even where they end otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from taquba import Claim, JobStatus, Queue, QueueConfig, StoreFenced
from taquba._memory.window import Window
from taquba.testing import MockClock
from tests.model.operations import (
    Ack,
    Cancel,
    CompareWrite,
    DeadLetter,
    DueNow,
    Enqueue,
    Handle,
    Nack,
    Operation,
    Purge,
    Renew,
    Requeue,
    Snooze,
    TakeJobs,
    Wake,
    Write,
    explain,
    succeeded,
)
from tests.model.plain_model import Effects, Model, Request, Results
from tests.model.raw_store import Contents, Counts, Record, read
from tests.model.strategies import (
    SECOND,
    SETTINGS,
    agreeing,
    cancel_effects,
    consistent,
    durations,
    effects,
    entry_keys,
    entry_values,
    own_ids,
    picks,
    plain_requests,
    queues,
    requests,
    safe_effects,
    turns,
)
from tests.payloads.support import payload_contents, payload_objects, referred

T = TypeVar("T")

TINY = {
    "taquba._queue.owner.Window": partial(Window, max_entries=3),
    "taquba._queue.claims._REFILL_ROWS": 2,
    "taquba._queue.claims._REFILL_BATCH": 2,
    "taquba._queue.loops._ROUND": 2,
    "taquba._queue.opening._TAKEN_BACK_PER_COMMIT": 2,
    "taquba._store.committer._MAX_GROUP_OPS": 8,
    "taquba._store.cursors._TAKEN": 2,
}
STORE_NAMES = count()


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # Thousands of examples are one test to pytest, which keeps every log record of it.
        self.patch.setattr(logging.getLogger("taquba._queue.loops"), "disabled", True)
        self.patch.setattr(logging.getLogger("taquba._store.committer"), "disabled", True)
        for name, value in TINY.items():
            self.patch.setattr(name, value)
        self.runner = asyncio.Runner()
        self.strays: list[dict[str, Any]] = []
        self.runner.get_loop().set_exception_handler(lambda _, context: self.strays.append(context))
        self.clock = MockClock()
        self.url = f"memory://model-{next(STORE_NAMES)}"
        self.model = Model(SETTINGS, self.clock.time_ms())
        self.handles: list[Handle] = []
        self.gone: list[str] = ["never-there"]
        self.uncertain: dict[str, list[Record | None]] = {}
        """What jobs were, between the last commit that is known to be durable and now."""
        self.last_id = ""
        self.queue: Queue | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    @initialize()
    def open_first(self) -> None:
        self.queue = self.run(self.open())
        self.compare()

    async def open(self) -> Queue:
        queue = await Queue.open(
            self.url,
            clock=self.clock,
            payload_offload_threshold=1,
            queue_configs={
                name: QueueConfig(
                    max_attempts=chosen.max_attempts,
                    lease_duration=timedelta(milliseconds=chosen.lease),
                    default_priority=chosen.priority,
                    retry_backoff_base=timedelta(milliseconds=chosen.backoff_base),
                    retry_backoff_max=timedelta(milliseconds=chosen.backoff_max),
                    retry_jitter=0,
                    keep_done_jobs=None
                    if chosen.keep_done is None
                    else timedelta(milliseconds=chosen.keep_done),
                    dead_retention=None
                    if chosen.dead_retention is None
                    else timedelta(milliseconds=chosen.dead_retention),
                )
                for name, chosen in SETTINGS.items()
            },
            take_over=True,
        )
        await self.clock.advance(0)
        return queue

    async def check_objects(self) -> None:
        """An hour after whatever happened, there are the objects that are needed, and no others."""
        assert self.queue is not None
        await self.clock.advance(timedelta(hours=2))
        await self.queue.sweep_now()
        needed: set[str] = set()
        for name in SETTINGS:
            needed |= await referred(self.queue, name)
        assert await payload_objects(self.queue) == needed

    def teardown(self) -> None:
        try:
            if self.queue is not None:
                self.run(self.check_objects())
                self.run(self.queue.close())
            assert not self.strays, self.strays
        finally:
            self.runner.close()
            self.patch.undo()

    # -- comparing ------------------------------------------------------------------------------

    async def contents(self) -> Contents:
        assert self.queue is not None
        rows = [row async for page in self.queue._owner.engine.scan_prefix(b"") for row in page]
        return read(rows, await payload_contents(self.queue))

    @staticmethod
    def fits(found: Contents, model: Model) -> bool:
        return QueueMachine.difference(found, model) == []

    @staticmethod
    def difference(found: Contents, model: Model) -> list[str]:
        expected = model.contents()
        stats = {name: found.stats.get(name, Counts()) for name in expected.stats}
        return [
            f"{what} {key!r}: the store has {got.get(key)}, the model {wanted.get(key)}"
            for what, got, wanted in (
                ("job", found.jobs, expected.jobs),
                ("dedup key", found.dedup, expected.dedup),
                ("entry", found.entries, expected.entries),
                ("counters", stats, expected.stats),
            )
            for key in {**got, **wanted}
            if got.get(key) != wanted.get(key)
        ]

    def compare(self) -> None:
        """The store holds what the model says, and memory agrees."""
        differences = self.difference(self.run(self.contents()), self.model)
        assert not differences, "\n".join(differences)
        self.run(self.compare_memory())

    async def compare_memory(self) -> None:
        assert self.queue is not None
        for job in self.model.jobs.values():
            hold = self.model.holds.get(job.id)
            expiry = await self.queue.lease_expiry(job.id)
            assert (expiry is None) == (hold is None)
            if hold is not None and expiry is not None:
                assert round(expiry.timestamp() * 1000) == hold.expires_at
                cancelled = self.handles[hold.claim].claim.cancel_token.cancelled
                assert cancelled == job.cancel_requested

    # -- performing -----------------------------------------------------------------------------

    def target(self, kind: str, pick: int) -> str:
        """A job: mostly one in the state that the kind of operation is for."""
        state = {"s": "claimed", "w": "scheduled", "r": "dead", "u": "dead"}.get(kind)
        jobs = sorted(self.model.jobs.values())
        known = [job.id for job in jobs if job.state == state]
        if pick == 0 or not known:
            known = [job.id for job in jobs] + self.gone[-2:]
        return known[pick % len(known)]

    def handle(self, pick: int) -> Handle | None:
        """A claim: mostly one that holds its job, now and then one that does not any more."""
        held = [self.handles[hold.claim] for hold in self.model.holds.values()]
        known = held + self.handles[-2:]
        return known[pick % len(known)] if known else None

    def handle_of(self, job_id: str) -> Handle | None:
        """The newest claim of a job."""
        found = (handle for handle in reversed(self.handles) if handle.claim.id == job_id)
        return next(found, None)

    def name_claim(self, claim: Claim, queue: Queue) -> int:
        self.handles.append(Handle(len(self.handles), claim, queue))
        return len(self.handles) - 1

    def take(self, queue: str, limit: int, lease: int | None = None, turns: int = 0) -> TakeJobs:
        return TakeJobs(queue, limit, lease, self.name_claim, turns=turns)

    async def run_all(self, operations: Sequence[Operation]) -> list[Any]:
        assert self.queue is not None
        return await asyncio.gather(*(operation.run(self.queue) for operation in operations))

    def perform(self, *operations: Operation) -> list[Any]:
        async def all_at_once() -> tuple[list[Any], Contents]:
            outcomes = await self.run_all(operations)
            await self.clock.advance(0)
            return outcomes, await self.contents()

        outcomes, found = self.run(all_at_once())
        ran = list(zip(operations, outcomes, strict=True))
        steps = self.explained(ran, found)
        self.follow(ran, steps)
        self.run(self.compare_memory())
        return outcomes

    def explained(self, ran: list[tuple[Operation, Any]], found: Contents) -> list[Model]:
        for operation, outcome in ran:
            note(f"{operation} -> {outcome}")
        steps = explain(self.model, ran, partial(self.fits, found))
        if steps is None:
            after = self.model.copy()
            agreed = [operation.explains(after, outcome) for operation, outcome in ran]
            pytest.fail(
                f"no order of these explains what happened: {ran}\n"
                f"in this order the outcomes fit: {agreed}, and the store differs in\n"
                + "\n".join(self.difference(found, after))
            )
        return steps

    def follow(self, ran: list[tuple[Operation, Any]], steps: list[Model]) -> None:
        """Go on from the model that explains the store, and note what a crash may undo."""
        states = [self.model, *steps]
        if any(succeeded(operation, outcome) for operation, outcome in ran):
            # What is not durable by itself may have landed after the last flush.
            taken = {
                job_id
                for operation, outcome in ran
                if isinstance(operation, TakeJobs) and len(ran) > 1
                for job_id, _, _ in outcome
            }
            self.uncertain = {
                job_id: before for job_id, before in self.uncertain.items() if job_id in taken
            }
        else:
            taken = set(states[0].jobs) | set(states[-1].jobs)
        for job_id in taken:
            self.note_uncertain(job_id, [state.jobs.get(job_id) for state in states])
        self.gone += sorted(set(self.model.jobs) - set(states[-1].jobs))
        self.model = states[-1]

    def note_uncertain(self, job_id: str, states: list[Record | None]) -> None:
        if any(state != states[-1] for state in states):
            self.uncertain.setdefault(job_id, []).extend(states)

    # -- rules: operations ----------------------------------------------------------------------
    # Few rules that draw what they do: an example leaves out some of the rules at random, and one
    # without claims or settlements says little.

    @rule(data=st.data(), count=st.integers(1, 4))
    def one_by_one(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            operation = self.any_operation(data, "eebccccssssnxwrupkd", effects)
            (outcome,) = self.perform(operation)
            if isinstance(operation, Enqueue):
                self.check_ascending(operation.requests, outcome)

    def check_ascending(self, batch: list[Request], outcome: Results | str) -> None:
        if isinstance(outcome, str):
            return
        for request, (job_id, new) in zip(batch, outcome, strict=True):
            if new and request.job_id is None:
                assert job_id > self.last_id, "ids ascend in the order of enqueues"
                self.last_id = job_id

    @rule(batch=st.lists(plain_requests, min_size=4, max_size=8), queue=queues)
    def enqueue_backlog(self, batch: list[Request], queue: str) -> None:
        batch = [request._replace(queue=queue) for request in agreeing(batch)]
        self.perform(Enqueue(batch, batch=True))

    @rule(queue=queues)
    def claim_all(self, queue: str) -> None:
        while waiting := len(self.model.pending(queue)):
            self.perform(self.take(queue, 2))
            if len(self.model.pending(queue)) == waiting:
                # Suspects run alone, and what is held has to end before.
                assert self.model.held_back(queue) or not self.model.claimable(queue)
                break
        self.perform(self.take(queue, 2))

    @rule(
        data=st.data(),
        size=st.integers(2, 4),
        theme=st.sampled_from(["any", "job", "claim", "entry", "name"]),
    )
    def at_once(self, data: st.DataObject, size: int, theme: str) -> None:
        match theme:
            case "any":
                operations = [
                    self.any_operation(data, "eebccspwruxkd", safe_effects) for _ in range(size + 1)
                ]
            case "job":
                first = data.draw(st.sampled_from("sxwru"))
                job_id = self.target(first, data.draw(picks))
                operations = [
                    self.any_operation(data, "sssxxwrucd", safe_effects, job_id=job_id)
                    for _ in range(size)
                ]
            case "claim":
                job_id = self.target("s", data.draw(picks))
                operations = [
                    self.any_operation(data, "s", safe_effects, job_id=job_id) for _ in range(size)
                ]
                operations.append(self.any_operation(data, "sxcd", safe_effects, job_id=job_id))
            case "entry":
                key = data.draw(entry_keys)
                operations = [
                    self.any_operation(data, "ppkkesx", safe_effects, key=key) for _ in range(size)
                ]
            case _:
                queue, job_id = data.draw(queues), data.draw(st.none() | own_ids)
                operations = [
                    Enqueue(
                        [
                            data.draw(requests)._replace(
                                queue=queue, job_id=job_id, dedup_key="k", entries=()
                            )
                        ],
                        batch=data.draw(st.booleans()),
                        turns=data.draw(turns),
                    )
                    for _ in range(size)
                ]
                operations.append(self.any_operation(data, "cxwd", safe_effects))
        self.perform(*operations)

    def any_operation(
        self,
        data: st.DataObject,
        kinds: str,
        some_effects: st.SearchStrategy[Effects],
        *,
        job_id: str | None = None,
        key: bytes | None = None,
    ) -> Operation:
        """One of `kinds`, on this job and this entry if they are given."""
        kind = data.draw(st.sampled_from(kinds))
        start = data.draw(turns)
        pick = data.draw(picks)
        target = self.target(kind, pick) if job_id is None else job_id
        entry = data.draw(entry_keys) if key is None else key
        value = data.draw(st.none() | entry_values)
        written = () if key is None or value is None else ((key, value),)
        match kind:
            case "e":
                request = data.draw(requests)
                request = request._replace(entries=written or request.entries)
                return Enqueue([request], batch=False, turns=start)
            case "b":
                batch = data.draw(st.lists(plain_requests, min_size=2, max_size=4))
                return Enqueue(list(agreeing(batch)), batch=True, turns=start)
            case "c":
                limit, lease = data.draw(st.integers(1, 4)), data.draw(durations)
                return self.take(data.draw(queues), limit, lease, turns=start)
            case "s":
                settlement = data.draw(st.sampled_from([Ack, Nack, Nack, DeadLetter, Snooze]))
                staged = data.draw(some_effects)
                staged = consistent(staged._replace(writes=written or staged.writes))
                handle = self.handle(pick) if job_id is None else self.handle_of(job_id)
                if handle is not None:
                    return settlement(handle, staged, turns=start)
            case "n":
                extension = data.draw(st.sampled_from([SECOND, 40 * SECOND]))
                handle = self.handle(pick)
                if handle is not None:
                    return Renew(handle, extension, turns=start)
            case "x":
                staged = data.draw(cancel_effects)
                staged = consistent(staged._replace(writes=written or staged.writes))
                return Cancel(target, staged, turns=start)
            case "w":
                return Wake(target, data.draw(st.sampled_from([None, b"woken"])), turns=start)
            case "r":
                return Requeue(target, turns=start)
            case "u":
                return Purge(target, turns=start)
            case "p":
                return Write(entry, value, turns=start)
            case "k":
                # Mostly what is there.
                expected = data.draw(st.none() | entry_values)
                if pick:
                    expected = self.model.entries.get(entry)
                return CompareWrite(entry, expected, value, turns=start)
            case _:
                pass
        return DueNow(turns=start)

    # -- rules: time and owners -----------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 1, 2, 5, 12, 31, 70]))
    def advance(self, seconds: int) -> None:
        states = [dict(self.model.jobs)]
        for _ in range(seconds):
            self.model.advance(self.model.now + SECOND)
            states.append(dict(self.model.jobs))
        self.run(self.clock.advance(seconds))
        for job_id in {job_id for jobs in states for job_id in jobs}:
            self.note_uncertain(job_id, [jobs.get(job_id) for jobs in states])
        self.compare()

    @rule(
        busy=st.lists(st.tuples(requests, turns), max_size=3),
        start=turns,
        clean=st.booleans(),
        told=st.booleans(),
    )
    def change_owner(
        self, busy: list[tuple[Request, int]], start: int, clean: bool, told: bool
    ) -> None:
        if clean:
            self.restart(busy, start)
        else:
            self.crash(busy, start, told)

    def restart(self, busy: list[tuple[Request, int]], start: int) -> None:
        """A clean close, perhaps while enqueues are on their way, and a new owner."""
        queue = self.queue
        assert queue is not None
        operations = [Enqueue([request], batch=False, turns=wait) for request, wait in busy]

        async def close() -> None:
            for _ in range(start):
                await asyncio.sleep(0)
            await queue.close()

        async def reopen() -> tuple[list[Any], Contents]:
            outcomes, _ = await asyncio.gather(self.run_all(operations), close())
            with pytest.raises(type(queue._owner.failure)):
                await queue.claim("a")
            self.queue = await self.open()
            return outcomes, await self.contents()

        outcomes, found = self.run(reopen())
        # Who is told that the queue closed has written nothing.
        ran = [
            (operation, outcome)
            for operation, outcome in zip(operations, outcomes, strict=True)
            if outcome != "QueueClosed"
        ]
        for operation, outcome in ran:
            note(f"{operation} -> {outcome}")

        def fits(model: Model) -> bool:
            after = model.copy()
            after.reopen(died=False)
            return self.fits(found, after)

        steps = explain(self.model, ran, fits)
        if steps is None:
            self.model.reopen(died=False)
            pytest.fail(
                f"not what a clean close with {ran} leaves behind:\n"
                + "\n".join(self.difference(found, self.model))
            )
        self.model = steps[-1] if steps else self.model
        self.model.reopen(died=False)
        self.uncertain = {}
        self.last_id = ""
        self.compare()

    def crash(self, busy: list[tuple[Request, int]], start: int, told: bool) -> None:
        """Another owner opens the store while this one has it, and perhaps writes to it."""
        old = self.queue
        assert old is not None

        async def open_another() -> None:
            for _ in range(start):
                await asyncio.sleep(0)
            self.queue = await self.open()

        async def take_over() -> tuple[list[Enqueue], list[Any]]:
            operations = [
                Enqueue(
                    [request._replace(job_id=old.next_job_id(), dedup_key=None)],
                    batch=False,
                    turns=wait,
                )
                for request, wait in busy
            ]
            runs = (operation.run(old) for operation in operations)
            _, *outcomes = await asyncio.gather(open_another(), *runs)
            if told:
                with pytest.raises(StoreFenced):
                    await old.kv_put(b"fenced", b"")
                with pytest.raises(StoreFenced):
                    await old.claim("a")
                with pytest.raises(StoreFenced):
                    await old.stats("a")
            await old.close()
            return operations, outcomes

        operations, outcomes = self.run(take_over())
        found = self.run(self.contents())
        landed: list[tuple[Operation, Any]] = []
        for operation, outcome in zip(operations, outcomes, strict=True):
            note(f"{operation} -> {outcome}")
            job_id = operation.requests[0].job_id
            assert job_id is not None
            # An error leaves open whether the job landed.
            assert job_id in found.jobs or outcome == "StoreFenced"
            if job_id in found.jobs:
                landed.append((operation, [(job_id, True)]))
        steps = explain(self.model, landed, lambda model: model.entries == found.entries)
        assert steps is not None, f"no order of {landed} leaves {found.entries}"
        if steps:
            self.model, self.uncertain = steps[-1], {}
        self.adopt(found)
        self.last_id = ""
        self.compare()

    def adopt(self, found: Contents) -> None:
        """Go on from what a crash left, if each job is what it may be."""
        self.model.holds.clear()
        for job_id in {*self.model.jobs, *self.uncertain, *found.jobs}:
            possible = [*self.uncertain.get(job_id, ()), self.model.jobs.get(job_id)]
            actual = found.jobs.get(job_id)
            assert actual in [self.model.reopened(state, died=True) for state in possible], (
                f"{job_id} became {actual}, from one of {possible}"
            )
            if actual is None:
                self.model.jobs.pop(job_id, None)
            else:
                self.model.jobs[job_id] = actual
        self.uncertain = {}

    # -- rules: looking -------------------------------------------------------------------------

    @rule(pick=picks, queue=queues, limit=st.integers(1, 3))
    def look(self, pick: int, queue: str, limit: int) -> None:
        self.run(self.look_at(self.target("", pick), queue, limit))

    async def look_at(self, job_id: str, name: str, limit: int) -> None:
        queue, model = self.queue, self.model
        assert queue is not None
        record, expected = await queue.get_job(job_id), model.jobs.get(job_id)
        assert (record is None) == (expected is None)
        if record is not None and expected is not None:
            assert (record.status.value, record.payload) == (expected.state, expected.payload)
        history = await queue.attempt_history(job_id)
        recorded = () if expected is None else expected.history
        assert [
            (entry.attempt, entry.outcome, entry.error, entry.counted) for entry in history
        ] == [
            (number, outcome, error, counted) for number, _, _, outcome, error, counted in recorded
        ]
        counts = model.counts(name)
        stats = await queue.stats(name)
        assert counts == (stats.pending, stats.scheduled, stats.claimed, stats.done, stats.dead)
        for status in JobStatus:
            listed: list[str] = []
            cursor = None
            while True:
                page = await queue.list_jobs(name, status, cursor, limit)
                listed += [job.id for job in page.jobs]
                cursor = page.next_cursor
                if cursor is None:
                    break
            found = [
                job for job in model.jobs.values() if (job.queue, job.state) == (name, status.value)
            ]
            assert listed == [job.id for job in sorted(found, key=_listing_order)]
        for key in (b"x", b"y"):
            assert await queue.kv_get(key) == model.entries.get(key)
        if not model.held_back(name):
            ready = bool(model.claimable(name))
            assert await queue.wait_for_jobs_on(name, timeout=0) == ready
        waited = await queue.wait_for_completion(job_id, timeout=0)
        if expected is None:
            assert waited.not_found
        else:
            assert waited.completed == (expected.state in ("done", "dead"))


def _listing_order(job: Record) -> tuple[int, str]:
    match job.state:
        case "pending":
            return job.priority, job.id
        case "scheduled":
            return job.run_at or 0, job.id
        case "claimed":
            return 0, job.id
        case _:
            return job.finished_at or 0, job.id


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=3 * settings().max_examples // 2)
