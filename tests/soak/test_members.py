"""The soak of members: the checker finds each kind of broken promise, and a short soak has none."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benches.soak.__main__ import report
from benches.soak.members.checker import check, check_folder
from benches.soak.members.conduct import soak_members
from benches.soak.members.logs import Asked, Log, Run
from benches.soak.members.plan import (
    ALONG,
    COUNTER,
    EVIDENT,
    HAND,
    MAX_ATTEMPTS,
    PLAIN,
    SETTLED,
    WITH_EVIDENCE,
)
from benches.soak.members.stored import Stored, StoredJob

LEASE = 3.0
DONE = ("completed", True)
LOST = ("interrupted", False)
DIED = ("interrupted", True)


class Story:
    """What members did, each thing after the one before. Tests then spoil it."""

    def __init__(self) -> None:
        self.logs = {number: Log(number, roles=[(0, "worker")]) for number in range(1, 10)}
        self.logs[1].roles = [(0, "owner")]
        self.jobs: dict[str, StoredJob] = {}
        self.kv: dict[str, str] = {}
        self.now = 0.0

    def tick(self) -> float:
        self.now += 0.1
        return self.now

    def call(self, name: str, result: Any = None, *, member: int = 2, **options: Any) -> Asked:
        error, permanent = options.pop("error", None), options.pop("permanent", True)
        call = Asked(member, name, "worker", options, self.tick(), self.tick(), result)
        call.error, call.permanent = error, permanent
        self.logs[member].calls.append(call)
        return call

    def enqueue(self, tag: str, queue: str = EVIDENT, kind: str = "quick") -> StoredJob:
        job = self.jobs[tag] = StoredJob(f"id-{tag}", queue, "pending", 0, False, tag, kind, True)
        self.call("enqueue", [[job.id, True]], tags=[tag], way="fresh")
        return job

    def run(self, job: StoredJob, member: int = 2, how: str | None = None, **more: Any) -> Run:
        log = self.logs[member]
        name = f"{member}.{len(log.runs)}"
        run = Run(
            name,
            member,
            job.id,
            job.tag,
            job.kind,
            job.queue,
            True,
            1,
            more.pop("suspect", False),
            self.tick(),
            more.pop("claimed", None),
        )
        if how is not None:
            run.end, run.how = self.tick(), how
        log.runs.append(run)
        return run

    def done(self, job: StoredJob, member: int = 2, **more: Any) -> Run:
        run = self.run(job, member, "done", **more)
        job.status = "done"
        job.history.append(DONE)
        if job.queue in WITH_EVIDENCE:
            self.kv[f"{SETTLED}{job.id}/{run.name}"] = ""
        return run

    def kill(self, member: int, *, by_job: bool = False) -> None:
        self.logs[member].killed, self.logs[member].by_job = self.tick(), by_job

    def broken(self) -> set[str]:
        rows = Counter((job.queue, job.status) for job in self.jobs.values())
        stats = {
            queue: {status: rows[queue, status] for status in ("pending", "done", "dead")}
            for queue in (EVIDENT, PLAIN, HAND)
        }
        stored = Stored(list(self.jobs.values()), stats, self.kv)
        return {text.partition(":")[0] for text in check(self.logs, stored, LEASE).violations}


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def job(story: Story) -> StoredJob:
    return story.enqueue("a")


def test_jobs_that_ended_as_they_should(story: Story, job: StoredJob) -> None:
    story.done(job)
    story.done(story.enqueue("b", PLAIN))
    by_hand = story.enqueue("c", HAND)
    run = story.done(by_hand, claimed=story.now)
    story.call("ack", job=by_hand.id, run=int(run.name.partition(".")[2]))
    story.call("late", job=by_hand.id, error="ClaimLost")
    assert story.broken() == set()


def test_a_job_that_is_gone(story: Story, job: StoredJob) -> None:
    story.done(job)
    story.kv.clear()
    del story.jobs["a"]
    assert "not lost" in story.broken()


def test_a_job_that_was_made_twice(story: Story, job: StoredJob) -> None:
    story.done(job)
    second = StoredJob("other", PLAIN, "pending", 0, False, "a", "quick", True)
    story.jobs["second"] = second
    story.done(second)
    assert story.broken() == {"made once", "not lost"}


def test_an_entry_without_its_batch(story: Story, job: StoredJob) -> None:
    story.done(job)
    story.call("enqueue", tags=["b"], way="batch", error="StoreError", permanent=False)
    assert story.broken() == set()
    story.kv[f"{ALONG}b"] = ""
    assert story.broken() == {"atomic"}


def test_a_job_that_was_settled_twice_or_by_nobody(story: Story, job: StoredJob) -> None:
    story.done(job)
    story.kv[f"{SETTLED}{job.id}/3.7"] = ""
    assert story.broken() == {"settled once"}
    story.kv.clear()
    assert story.broken() == {"settled once"}


def test_an_acknowledgement_that_did_not_settle(story: Story) -> None:
    job = story.enqueue("c", HAND)
    story.done(job, claimed=story.now)
    story.call("ack", job=job.id, run=99)
    assert story.broken() == {"settled once"}


def test_a_job_that_was_started_again_although_its_process_lived(
    story: Story, job: StoredJob
) -> None:
    story.run(job)
    story.kill(1)
    story.done(job, member=3)
    assert story.broken() == {"started once"}


@pytest.mark.parametrize("reason", ["killed", "suspended", "raised"])
def test_a_job_that_was_started_again_for_a_reason(
    story: Story, job: StoredJob, reason: str
) -> None:
    run = story.run(job, how="raised" if reason == "raised" else None)
    if reason == "killed":
        story.kill(2)
    elif reason == "suspended":
        story.logs[2].pauses.append((story.tick(), math.inf))
    job.history.append(("retried", True) if reason == "raised" else LOST)
    story.done(job, member=3)
    assert run.job == job.id
    assert story.broken() == set()


def test_an_innocent_that_paid_for_a_job_beside_it(story: Story, job: StoredJob) -> None:
    story.run(job)
    story.kill(2, by_job=True)
    job.history.append(LOST)
    story.done(job, member=3, suspect=True)
    assert story.broken() == set()
    job.history[0] = DIED
    assert story.broken() == {"no innocent pays"}


def test_what_ran_alone_in_a_process_that_was_killed_has_spent_an_attempt(
    story: Story, job: StoredJob
) -> None:
    run = story.run(job, suspect=True)
    story.kill(2)
    job.history.append(DIED)
    story.done(job, member=3)
    assert story.broken() == set()
    run.suspect = False
    assert story.broken() == {"no innocent pays"}


def test_a_job_that_nobody_ran(story: Story, job: StoredJob) -> None:
    assert job.status == "pending"
    assert story.broken() == {"no innocent pays"}


def test_an_innocent_that_is_dead(story: Story, job: StoredJob) -> None:
    story.run(job, how="raised")
    job.status = "dead"
    job.history.append(("retried", True))
    assert story.broken() == {"no innocent pays"}


def test_a_lease_that_expired_although_its_process_was_not_late(
    story: Story, job: StoredJob
) -> None:
    story.run(job)
    pause = story.tick(), story.tick()
    job.history.append(("lease_expired", True))
    story.done(job, member=3)
    assert story.broken() == {"started once", "no innocent pays"}
    story.logs[2].pauses.append(pause)
    assert story.broken() == set()


def test_a_job_that_ends_its_process(story: Story) -> None:
    job = story.enqueue("k", kind="die")
    for member in range(2, MAX_ATTEMPTS + 3):
        story.run(job, member)
        story.kill(member, by_job=True)
    job.status = "dead"
    job.history = [LOST, *[DIED] * MAX_ATTEMPTS]
    assert story.broken() == set()
    job.history.pop()
    assert story.broken() == {"killers"}
    job.history += [DIED, DIED]
    assert story.broken() == {"killers"}
    job.history = [LOST, *[DIED] * MAX_ATTEMPTS]
    story.run(job, 9)
    assert story.broken() == {"killers"}


def test_a_job_that_ends_its_process_and_is_done(story: Story) -> None:
    job = story.enqueue("k", kind="die")
    story.done(job)
    assert story.broken() == {"killers"}


def test_a_settlement_that_was_refused_without_a_reason(story: Story) -> None:
    job = story.enqueue("c", HAND)
    story.run(job, how="lost", claimed=story.now)
    story.kill(2)
    story.done(job, member=3, claimed=story.now)
    assert story.broken() == {"one settlement"}


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("kv_put", {"error": "StoreError", "permanent": False}),
        ("kv_put", {"error": "OwnerUnreachable"}),
        ("requeue_dead none", {}),
        ("requeue_dead none", {"error": "StoreError"}),
        ("late", {}),
        ("get_job none", {"result": "something"}),
        ("cancel none", {"result": "removed"}),
        ("kv_get", {"result": "never written"}),
    ],
)
def test_an_answer_that_is_not_as_it_should_be(
    story: Story, name: str, answer: dict[str, Any]
) -> None:
    story.call(name, answer.pop("result", None), value="1", **answer)
    assert story.broken() == {"one way"}


def test_a_call_that_took_too_long(story: Story) -> None:
    call = story.call("stats")
    call.end = call.begin + 1000
    assert story.broken() == {"in time"}


def test_steps_of_the_counter(story: Story) -> None:
    story.call("count", True, to=1)
    story.call("count", to=2, error="StoreError", permanent=False)
    story.call("count", True, to=3)
    story.kv[COUNTER] = "3"
    assert story.broken() == set()
    story.call("count", True, to=3)
    assert story.broken() == {"compare-and-set"}
    story.logs[2].calls.pop()
    story.kv[COUNTER] = "4"
    assert story.broken() == {"compare-and-set"}


def test_damaged_content(story: Story, job: StoredJob) -> None:
    story.done(job).whole = False
    assert story.broken() == {"content"}


@pytest.mark.long
async def test_a_short_soak_of_members(tmp_path: Path) -> None:
    folder = tmp_path / "soak"
    await soak_members(
        folder, seconds=6, members=3, rate=20, seed=3, lease=1, rest=(0.2, 0.6), killers=0
    )
    assert report(folder)
    tally = check_folder(folder).tally
    assert tally["jobs dead"] >= 1
    assert tally["attempts interrupted, counted"] >= MAX_ATTEMPTS
    assert tally["trouble: kill owner"] >= 1
    # The checker looks at what is there.
    stored = json.loads((folder / "stored.json").read_text("utf-8"))
    lost = next(job for job in stored["jobs"] if job["status"] == "done")
    stored["jobs"].remove(lost)
    (folder / "stored.json").write_text(json.dumps(stored), "utf-8")
    assert not report(folder)
