"""Members that take, settle and lose jobs, and owners that come and go, against a plain model.

Each member is the far end of a real connection to the owner's socket, in this process, and says
what a member says. After every step the store is read raw: each job is in the one place and has the
history that the model says (I1), a settlement counts once and only for who holds the job (I4), and
no job has an attempt counted for something that only happened beside it (I10).

What is drawn never depends on what the queue did.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from taquba import Queue, QueueConfig
from taquba._line import methods
from taquba._line.address import socket_path
from taquba._line.client import CallFailed, SocketClient
from taquba._line.joining import MemberInfo, NamedJob, dump_named, load_adopted
from taquba._line.tokens import SentJob, dump_tokens, load_jobs, load_tokens
from taquba._line.values import dump_arguments
from taquba._model import keys
from taquba._objects.location import StoreLocation
from taquba.testing import MockClock
from tests.model.raw_store import Record, read

T = TypeVar("T")

QUEUE = "q"
LEASE = 10
MAX_ATTEMPTS = 3
ALONE = 3
MOST_MEMBERS = 3
PATIENCE = 10
LOOP = 1
CONFIG = QueueConfig(
    max_attempts=MAX_ATTEMPTS,
    lease_duration=LEASE,
    retry_backoff_base=0,
    retry_jitter=0,
    keep_done_jobs=10**6,
    dead_retention=None,
)

Story = tuple[tuple[int, str, bool], ...]
"""A job's attempts: number, outcome, whether it counted."""


class Job(NamedTuple):
    """A job as the model knows it; seconds."""

    priority: int
    state: str = "pending"
    attempts: int = 0
    suspicion: tuple[int, int, bool] | None = None
    story: Story = ()
    expires_at: int = 0
    joins_at: int | None = None

    @property
    def stored(self) -> tuple[str, int, tuple[int, int, bool] | None, Story]:
        return self.state, self.attempts, self.suspicion, self.story

    def ended(self, outcome: str, *, counted: bool = True) -> Job:
        return self._replace(story=(*self.story, (self.attempts, outcome, counted)), joins_at=None)

    def claimed(self, now: int) -> Job:
        seen = self.suspicion
        return self._replace(
            state="claimed",
            attempts=self.attempts + 1,
            suspicion=None if seen is None else (*seen[:2], True),
            expires_at=now + LEASE,
            joins_at=None if seen is None else now + alone(seen),
        )

    def finished(self, state: str, outcome: str) -> Job:
        return self.ended(outcome)._replace(state=state, suspicion=None)

    def failed(self, outcome: str) -> Job:
        if self.attempts >= MAX_ATTEMPTS:
            return self.finished("dead", "dead_lettered" if outcome == "retried" else outcome)
        return self.ended(outcome)._replace(state="pending", suspicion=None)

    def interrupted(self) -> Job:
        seen = self.suspicion
        return self.ended("interrupted", counted=False)._replace(
            state="pending",
            attempts=self.attempts - 1,
            suspicion=None if seen is None else (*seen[:2], False),
        )

    def process_died(self) -> Job:
        interruptions, deaths, ran_alone = self.suspicion or (0, 0, False)
        if not ran_alone:
            return self.interrupted()._replace(suspicion=(interruptions + 1, deaths, False))
        if self.attempts >= MAX_ATTEMPTS:
            return self.finished("dead", "interrupted")
        after = self.ended("interrupted")
        return after._replace(state="pending", suspicion=(interruptions, deaths + 1, False))


def alone(suspicion: tuple[int, int, bool]) -> int:
    """How long a suspect keeps others out of its process."""
    return ALONE << max(0, suspicion[0] - 1)


@dataclass(eq=False)
class Member:
    """One end of a connection, and what the model says that it holds."""

    about: MemberInfo
    process: subprocess.Popen[bytes]
    """Lives as long as the member does: the next owner looks whether it does."""
    client: SocketClient
    holds: dict[str, SentJob] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    lost: list[SentJob] = field(default_factory=list)
    """What it held once, and what was said of it may still be said."""
    arrived: list[SentJob] = field(default_factory=list)
    over: set[int] = field(default_factory=set)

    def die(self) -> None:
        self.process.kill()
        self.process.wait()

    def drop(self, job_id: str) -> None:
        """It holds a job no longer."""
        self.lost.append(self.holds.pop(job_id))
        self.unread.discard(job_id)


class MemberMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name in ("taquba._queue.loops", "taquba._queue.adoption"):
            self.patch.setattr(logging.getLogger(name), "disabled", True)
        # In real time, which is not the machine's.
        self.patch.setattr(methods, "SILENT_SECONDS", 1e9)
        self.runner = asyncio.Runner()
        self.strays: list[dict[str, Any]] = []
        self.runner.get_loop().set_exception_handler(lambda _, context: self.strays.append(context))
        self.clock = MockClock()
        # Short, for the path of the socket in it.
        self.folder = tempfile.TemporaryDirectory(prefix="taquba-")
        self.path = socket_path(StoreLocation.parse(self.folder.name))
        self.now = 0
        self.jobs: dict[str, Job] = {}
        self.unsure: dict[str, list[Job]] = {}
        """What jobs were since the last commit that is known to be durable."""
        self.members: list[Member] = []
        self.numbers = count(1)
        self.queue: Queue

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        async def close() -> None:
            for member in self.members:
                await member.client.close()
                member.die()
            await self.queue.close()

        try:
            self.run(close())
            assert not self.strays, self.strays
        finally:
            self.runner.close()
            self.folder.cleanup()
            self.patch.undo()

    @initialize()
    def begin(self) -> None:
        async def begin() -> None:
            await self.open()
            for _ in range(2):
                await self.come_in()
            await self.add([2, 1, 3, 1, 2, 2])

        self.run(begin())

    async def open(self) -> None:
        self.queue = await Queue.open(
            self.folder.name,
            fsync=False,
            clock=self.clock,
            default_config=CONFIG,
            producer_socket=True,
            take_over=True,
        )

    # -- the model ------------------------------------------------------------------------------

    def change(self, job_id: str, after: Job, *, durable: bool) -> None:
        """A job becomes another; what is durable makes durable what came before it."""
        if durable:
            self.unsure.clear()
        else:
            self.unsure.setdefault(job_id, []).append(self.jobs[job_id])
        self.jobs[job_id] = after

    def holder(self, job_id: str) -> Member | None:
        return next((one for one in self.members if job_id in one.holds), None)

    def takes(self, member: Member) -> list[str]:
        """The jobs that a member surely gets if it has room for all of them, in their order."""
        held = [self.jobs[job_id] for job_id in member.holds]
        if any(job.suspicion is not None and job.suspicion[2] for job in held):
            return []
        pending = [
            job_id
            for job_id, job in sorted(
                self.jobs.items(), key=lambda item: (item[1].priority, item[0])
            )
            if job.state == "pending"
        ]
        if pending and self.jobs[pending[0]].suspicion is not None:
            # Whether it is held back for the suspect is a matter of patience.
            return [] if held else pending[:1]
        suspects = [place for place, job_id in enumerate(pending) if self.jobs[job_id].suspicion]
        return pending[: min(suspects, default=None)]

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            for job_id, job in list(self.jobs.items()):
                if job.state != "claimed":
                    continue
                if job.joins_at is not None and job.joins_at <= self.now < job.expires_at:
                    assert job.suspicion is not None
                    joined = job._replace(suspicion=(*job.suspicion[:2], False), joins_at=None)
                    self.change(job_id, joined, durable=False)
                elif job.expires_at <= self.now:
                    member = self.holder(job_id)
                    assert member is not None
                    unread = job_id in member.unread
                    after = job.interrupted() if unread else job.failed("lease_expired")
                    self.change(job_id, after, durable=False)
                    member.drop(job_id)

    # -- comparing ------------------------------------------------------------------------------

    async def stored(self) -> dict[str, tuple[str, int, tuple[int, int, bool] | None, Story]]:
        rows = [row async for page in self.queue._owner.engine.scan_prefix(b"") for row in page]
        found = read([row for row in rows if not row[0].startswith(keys.MEMBER)], {})
        return {job_id: plain(record) for job_id, record in found.jobs.items()}

    def expected(self) -> dict[str, tuple[str, int, tuple[int, int, bool] | None, Story]]:
        return {job_id: job.stored for job_id, job in self.jobs.items()}

    async def agree(self) -> None:
        """Wait until the store is what the model says: what was said takes its time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while (  # noqa: ASYNC110 - the owner's rows
            found := await self.stored()
        ) != self.expected() and loop.time() < deadline:
            await asyncio.sleep(0.001)
        assert found == self.expected()
        for member in self.members:
            assert not {sent.token for sent in member.holds.values()} & member.over

    # -- members --------------------------------------------------------------------------------

    async def come_in(self) -> None:
        """Another process takes part."""
        process = await asyncio.to_thread(subprocess.Popen, ["sleep", "600"])
        name = f"member-{next(self.numbers)}"
        about = MemberInfo(name, socket.gethostname(), process.pid, "1", "worker", 0)
        member, _ = await self.join(about, process, [])
        self.members.append(member)

    async def join(
        self, about: MemberInfo, process: subprocess.Popen[bytes], holds: Sequence[SentJob]
    ) -> tuple[Member, list[int | None]]:
        """A process connects and names what it holds; returns how the owner calls that."""
        told: list[Member] = []
        client = await SocketClient.connect(
            self.path, lambda _, kind, fields: take_in(told[0], kind, fields)
        )
        told.append(Member(about, process, client))
        named = dump_named(NamedJob.of(sent.job) for sent in holds)
        answer = await client.call(PATIENCE, methods.JOIN, about.dump(), named)
        adopted = load_adopted(answer, len(holds))
        client.say(methods.WORK, LOOP, QUEUE, LEASE * 1000, 10)
        return told[0], [None if one is None else one.token for one in adopted]

    async def be_heard(self, member: Member) -> None:
        """Wait until the owner has taken in what a member said."""
        await member.client.call(PATIENCE, methods.BRING_IN, QUEUE)

    def pick(self, number: int) -> Member | None:
        return self.members[number % len(self.members)] if self.members else None

    # -- rules ----------------------------------------------------------------------------------

    @rule(priorities=st.lists(st.integers(1, 3), min_size=2, max_size=5))
    def enqueue(self, priorities: list[int]) -> None:
        self.run(self.add(priorities))

    async def add(self, priorities: list[int]) -> None:
        for priority in priorities:
            added = await self.queue.enqueue(QUEUE, b"", priority=priority)
            self.jobs[added.id] = Job(priority)
            self.unsure.clear()
        await self.agree()

    @rule(
        steps=st.lists(
            st.tuples(
                st.sampled_from("tttttddnc"), st.integers(0, 5), st.integers(0, 9), st.booleans()
            ),
            min_size=1,
            max_size=5,
        )
    )
    def work(self, steps: list[tuple[str, int, int, bool]]) -> None:
        """Members take jobs, end them, and lose them; few rules, so that none is left out."""
        for kind, who, pick, heard in steps:
            if self.members:
                self.run(self.step(self.members[who % len(self.members)], kind, pick, heard))

    async def step(self, member: Member, kind: str, pick: int, heard: bool) -> None:
        if kind == "t":
            due = self.takes(member)[: 1 + pick % 4]
            if due:
                await self.hand_out(member, due, heard)
            return
        sent = self.some(member, pick)
        if sent is None:
            return
        match kind:
            case "d":
                more = self.some(member, pick + 1)
                both = [sent, sent if more is None else more]
                await self.say_done(member, list({one.token: one for one in both}.values()))
            case "n":
                await self.say_nack(member, sent)
            case _:
                await self.say_child_died(member, sent)

    def some(self, member: Member, pick: int) -> SentJob | None:
        """Mostly a job that a member holds, now and then one that it has lost."""
        known = [*member.holds.values(), *member.lost[-2:]]
        return known[pick % len(known)] if known else None

    @rule()
    def come(self) -> None:
        if len(self.members) < MOST_MEMBERS:
            self.run(self.come_in())

    async def hand_out(self, member: Member, due: list[str], heard: bool) -> None:
        member.arrived.clear()
        member.client.say(methods.FREE, LOOP, len(due))
        async with asyncio.timeout(PATIENCE):
            while len(member.arrived) < len(due):  # noqa: ASYNC110 - a socket
                await asyncio.sleep(0.001)
        assert [sent.job.id for sent in member.arrived] == due
        for sent in member.arrived:
            before = self.jobs[sent.job.id]
            self.change(sent.job.id, before.claimed(self.now), durable=before.suspicion is not None)
            member.holds[sent.job.id] = sent
            member.unread.add(sent.job.id)
        if heard:
            member.client.say(methods.ALIVE, member.arrived[-1].token)
            await self.be_heard(member)
            member.unread.clear()
        await self.agree()

    async def say_done(self, member: Member, chosen: list[SentJob]) -> None:
        tokens = [sent.token for sent in chosen]
        held = {sent.token: job_id for job_id, sent in member.holds.items()}
        answer = await member.client.call(PATIENCE, methods.DONE, dump_tokens(tokens))
        assert set(load_tokens(answer)) == set(tokens) - held.keys()
        for job_id in [held[token] for token in tokens if token in held]:
            self.change(job_id, self.jobs[job_id].finished("done", "completed"), durable=True)
            member.drop(job_id)
        await self.agree()

    async def say_nack(self, member: Member, sent: SentJob) -> None:
        job_id = sent.job.id
        arguments = dump_arguments({"error": "no", "effects": None, "delay_ms": None})
        call = member.client.call(PATIENCE, methods.END, sent.token, job_id, "nack", arguments)
        if member.holds.get(job_id) is not sent:
            with pytest.raises(CallFailed) as refused:
                await call
            assert refused.value.kind == "ClaimLost"
        else:
            await call
            self.change(job_id, self.jobs[job_id].failed("retried"), durable=True)
            member.drop(job_id)
        await self.agree()

    async def say_child_died(self, member: Member, sent: SentJob) -> None:
        """A process of the member's pool ended, with one of its jobs."""
        await member.client.call(PATIENCE, methods.LOST, sent.token, "its child ended")
        for job_id in [one for one, held in member.holds.items() if held is sent]:
            self.change(job_id, self.jobs[job_id].process_died(), durable=True)
            member.drop(job_id)
        await self.agree()

    @rule(who=st.integers(0, 5), ends=st.sampled_from(["leaves", "dies"]))
    def end(self, who: int, ends: str) -> None:
        """A member stops, or is killed."""
        member = self.pick(who)
        if member is None:
            return

        async def end() -> None:
            if ends == "leaves":
                await member.client.call(PATIENCE, methods.BYE)
            member.die()
            await member.client.close()
            for job_id in list(member.holds):
                job = self.jobs[job_id]
                after = job.interrupted() if ends == "leaves" else job.process_died()
                self.change(job_id, after, durable=True)
            self.members.remove(member)
            await self.agree()
            await self.flush()

        self.run(end())

    @rule(seconds=st.sampled_from([1, 4, 9, 11, 31]), renews=st.booleans())
    def advance(self, seconds: int, renews: bool) -> None:
        """Time passes; members hang, or renew what they hold."""
        self.run(self.let_pass(seconds, renews))

    async def let_pass(self, seconds: int, renews: bool) -> None:
        left = seconds
        while left:
            step = min(left, LEASE // 2) if renews else left
            if renews:
                for member in self.members:
                    await self.renew(member)
            await self.clock.advance(step)
            self.pass_time(step)
            await self.agree()
            left -= step

    async def renew(self, member: Member) -> None:
        tokens = [sent.token for sent in member.holds.values()]
        member.client.say(methods.RENEW, LEASE * 1000, dump_tokens(tokens))
        await self.be_heard(member)
        for job_id in member.holds:
            self.jobs[job_id] = self.jobs[job_id]._replace(expires_at=self.now + LEASE)

    @rule(
        died=st.booleans(),
        flushed=st.booleans(),
        dead=st.sets(st.integers(0, MOST_MEMBERS - 1)),
    )
    def change_owner(self, died: bool, flushed: bool, dead: set[int]) -> None:
        """The owner ends, and some members with it; the others go on at the next one."""
        self.run(self.adopt(died, flushed, dead))

    async def flush(self) -> None:
        await self.queue.kv_put(b"flushed", b"")
        self.unsure.clear()

    async def adopt(self, died: bool, flushed: bool, dead: set[int]) -> None:
        old, before = self.queue, self.members
        if flushed or not died:
            await self.flush()
        for member in [one for place, one in enumerate(before) if place in dead]:
            member.die()
        if died:
            await self.open()
            await old.close()
        else:
            await old.close()
            await self.open()
        goes_on: set[str] = set()
        self.members = []
        for member in before:
            await member.client.close()
            if member.process.poll() is None:
                goes_on |= await self.go_on(member)
        await self.settle_after(died, goes_on)

    async def go_on(self, member: Member) -> set[str]:
        """A member takes part under the next owner; returns the jobs that go on."""
        named = list(member.holds.values())
        after, tokens = await self.join(member.about, member.process, named)
        self.members.append(after)
        for sent, token in zip(named, tokens, strict=True):
            if token is not None:
                after.holds[sent.job.id] = sent._replace(token=token)
            else:
                # More than the claim was not written.
                assert len(self.unsure.get(sent.job.id, ())) > 1
        return set(after.holds)

    async def settle_after(self, died: bool, goes_on: set[str]) -> None:
        """What the members hold goes on, and everything else is what it may be."""
        possible: dict[str, list[Job]] = {}
        for job_id, job in self.jobs.items():
            if job_id in goes_on:
                joins = (
                    None
                    if job.joins_at is None
                    else self.now + alone(job.suspicion or (0, 0, True))
                )
                possible[job_id] = [job._replace(expires_at=self.now + LEASE, joins_at=joins)]
            else:
                states = [*self.unsure.get(job_id, ()), job]
                possible[job_id] = [reopened(state, died=died) for state in states]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while True:
            found = await self.stored()
            wrong = {
                job_id: (found.get(job_id), jobs)
                for job_id, jobs in possible.items()
                if found.get(job_id) not in [job.stored for job in jobs]
            }
            if not wrong or loop.time() > deadline:
                break
            await asyncio.sleep(0.001)
        assert not wrong
        for job_id, jobs in possible.items():
            self.jobs[job_id] = next(job for job in jobs if job.stored == found[job_id])
        await self.flush()
        await self.agree()


def reopened(job: Job, *, died: bool) -> Job:
    """What a job becomes under the next owner that no process names."""
    if job.state != "claimed":
        return job
    # The former owner lives, and notices later: what runs alone is not why it ended.
    ran_alone = job.suspicion is not None and job.suspicion[2]
    return job.process_died() if died and not ran_alone else job.interrupted()


def plain(record: Record) -> tuple[str, int, tuple[int, int, bool] | None, Story]:
    story = tuple(
        (number, outcome, counted) for number, _, _, outcome, _, counted in record.history
    )
    return record.state, record.attempts, record.suspicion, story


def take_in(member: Member, kind: str, fields: list[object]) -> None:
    match kind, fields:
        case methods.JOBS, [int(), bytes() as jobs]:
            member.arrived += load_jobs(QUEUE, jobs)
        case methods.OVER, [int() as token]:
            member.over.add(token)
        case _:
            pass


TestMembers = MemberMachine.TestCase
TestMembers.settings = settings(max_examples=settings().max_examples // 2)


def test_a_suspect_that_goes_on_under_the_next_owner_lets_others_in_after_a_while() -> None:
    machine = MemberMachine()
    try:
        machine.begin()
        machine.work([("t", 0, 0, True)])
        machine.end(who=0, ends="dies")
        machine.work([("t", 0, 0, True)])
        (member,) = machine.members
        assert len(member.holds) == 1
        assert machine.takes(member) == []
        machine.change_owner(died=False, flushed=True, dead=set())
        machine.advance(seconds=31, renews=True)
        (member,) = machine.members
        assert len(machine.takes(member)) > 1
    finally:
        machine.teardown()
