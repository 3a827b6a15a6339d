"""What the store of a release holds: writing it, finding it again, and working it to the end.

A later release may write more. What is new in it is looked for in the stores of that release and
of later ones only; what is here stays.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from taquba import (
    AttemptOutcome,
    Claim,
    JobRecord,
    JobStatus,
    LeaseHandle,
    Queue,
    QueueConfig,
    QueueReader,
    QueueStats,
    SettlementEffects,
)
from taquba.testing import MockClock, drain
from taquba_cron import CronScheduler, firing_time
from taquba_jobs import JobContext, JobRunner, job
from taquba_workflow import (
    Continue,
    OnSignal,
    RunSpec,
    RunState,
    Step,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)
from tests.upgrade import bulk_contents, inbox_contents

START = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
LEFT_AT = START + HOUR + MINUTE
"""When the store was left: by the clock of its owner, which moved only when it was told to."""

CONFIG = QueueConfig(
    retry_backoff_base=10,
    retry_jitter=0,
    keep_done_jobs=timedelta(days=365),
    dead_retention=None,
)
LARGE = b"large " * 1000
OFFLOAD_BYTES = 1000

Left = Queue | QueueReader


async def open_store(folder: Path, clock: MockClock, *, inbox: bool = True) -> Queue:
    return await Queue.open(
        folder,
        default_config=CONFIG,
        clock=clock,
        payload_offload_threshold=OFFLOAD_BYTES,
        inbox=inbox_contents.INBOX if inbox else False,
    )


# -- what other packages keep there -------------------------------------------------------------


class Waits:
    """Two steps: one waits for a signal, the other tells what came."""

    async def run_step(self, step: Step) -> StepOutcome:
        if step.payload == b"at once":
            return Succeed(b"succeeded")
        if step.step_number == 0:
            return Continue(b"second", OnSignal("go", None))
        return Succeed(step.payload + b" " + (step.signal or b""))


@job(name="double", idempotency_key=lambda number: str(number))
async def double(ctx: JobContext[list[int]], number: int) -> int:
    ctx.state.append(number)
    return 2 * number


def hourly(queue: Queue) -> CronScheduler:
    scheduler = CronScheduler(queue)
    scheduler.schedule("hourly", "0 * * * *", "cron", b"tick", timezone="Europe/Berlin")
    return scheduler


# -- write --------------------------------------------------------------------------------------


async def write(folder: Path) -> Queue:
    """Fill a new store; its owner is still open."""
    clock = MockClock(START)
    await inbox_contents.write(folder, clock)
    # What waits in the inbox is left to the next owner.
    queue = await open_store(folder, clock, inbox=False)
    async with hourly(queue):
        await clock.advance(HOUR + MINUTE)
    await _write_runs(queue, clock)
    await _write_typed_jobs(queue)
    await _write_jobs(queue)
    await _write_entries(queue)
    await bulk_contents.write(queue, folder.parent)
    return queue


async def _write_runs(queue: Queue, clock: MockClock) -> None:
    async with WorkflowRuntime(queue, Waits()) as runtime:
        await runtime.submit(RunSpec(b"at once", run_id="ended"))
        await runtime.submit(RunSpec(b"first", run_id="waits", headers={"tenant": "t"}))
        await clock.advance(0)


async def _write_typed_jobs(queue: Queue) -> None:
    calls: list[int] = []
    async with JobRunner(queue, jobs=[double], state=calls) as runner:
        assert await (await runner.submit(double, 21)) == 42
    await runner.submit(double, 4)


async def _write_jobs(queue: Queue) -> None:
    async def claimed(job_id: str) -> Claim:
        await queue.enqueue("mail", job_id.encode(), job_id=job_id)
        claim = await queue.claim("mail")
        assert claim is not None
        return claim

    await queue.ack(await claimed("done"), SettlementEffects(kv_writes={"effect": b"done"}))
    await queue.dead_letter(await claimed("dead"), "hopeless")
    await queue.nack(await claimed("retried"), "no luck")
    await claimed("claimed")
    await queue.cancel("claimed")
    await queue.enqueue("mail", b"", job_id="woken", delay=HOUR)
    await queue.wake_scheduled("woken", b"wake up")
    await queue.enqueue("mail", b"", job_id="scheduled", delay=HOUR, max_attempts=7)
    await queue.enqueue("mail", LARGE, job_id="large", priority=5)
    await queue.enqueue(
        "mail", b"", job_id="pending", priority=9, headers={"h": "ü"}, dedup_key="key"
    )


async def _write_entries(queue: Queue) -> None:
    await queue.kv_put("entry", b"value")
    await queue.kv_put(b"\xff\x00", b"\x00")
    await queue.objects.put("object/1", b"an object")


# -- find again ---------------------------------------------------------------------------------


async def check_left(left: Left) -> None:
    """Everything is there, as it was when the owner ended; nobody has opened the store since."""
    assert await left.stats("mail") == QueueStats(pending=3, scheduled=2, claimed=1, done=1, dead=1)
    claimed = await record(left, "claimed")
    assert claimed.status is JobStatus.CLAIMED
    assert claimed.claimed_at == LEFT_AT
    assert claimed.cancel_requested
    await check_jobs(left)
    await check_entries(left)
    await inbox_contents.check_left(left)


async def check_jobs(left: Left) -> None:
    """All jobs but the claimed one, which the next owner takes back."""
    pending = await record(left, "pending")
    assert (pending.status, pending.priority) == (JobStatus.PENDING, 9)
    assert (pending.dedup_key, dict(pending.headers)) == ("key", {"h": "ü"})
    assert (pending.enqueued_at, pending.max_attempts) == (LEFT_AT, CONFIG.max_attempts)
    large = await record(left, "large")
    assert large.payload_ref is not None
    assert large.payload == LARGE
    woken = await record(left, "woken")
    assert (woken.status, woken.woken_at) == (JobStatus.PENDING, LEFT_AT)
    assert woken.wake_payload == b"wake up"
    scheduled = await record(left, "scheduled")
    assert (scheduled.status, scheduled.run_at) == (JobStatus.SCHEDULED, LEFT_AT + HOUR)
    assert scheduled.max_attempts == 7
    retried = await record(left, "retried")
    assert (retried.status, retried.attempts) == (JobStatus.SCHEDULED, 1)
    assert retried.run_at == LEFT_AT + timedelta(seconds=10)
    done = await record(left, "done")
    assert (done.status, done.completed_at, done.payload) == (JobStatus.DONE, LEFT_AT, b"done")
    dead = await record(left, "dead")
    assert (dead.status, dead.failed_at) == (JobStatus.DEAD, LEFT_AT)
    for job_id, outcome, error in (
        ("done", AttemptOutcome.COMPLETED, None),
        ("dead", AttemptOutcome.DEAD_LETTERED, "hopeless"),
        ("retried", AttemptOutcome.RETRIED, "no luck"),
    ):
        (attempt,) = await left.attempt_history(job_id)
        assert (attempt.attempt, attempt.outcome, attempt.error) == (1, outcome, error)
        assert attempt.claimed_at == attempt.recorded_at == LEFT_AT


async def check_entries(left: Left) -> None:
    assert await left.kv_get("effect") == b"done"
    assert await left.kv_get("entry") == b"value"
    assert await left.kv_get(b"\xff\x00") == b"\x00"
    assert await left.objects.get("object/1") == b"an object"


async def record(left: Left, job_id: str) -> JobRecord:
    found = await left.get_job(job_id)
    assert found is not None, f"{job_id} is not there"
    return found


# -- work to the end ----------------------------------------------------------------------------


async def work_to_the_end(folder: Path, queue: Queue, clock: MockClock) -> None:
    """The next owner takes up everything where it was left."""
    (interrupted,) = await queue.attempt_history("claimed")
    assert interrupted.outcome is AttemptOutcome.INTERRUPTED
    assert (await record(queue, "claimed")).cancel_requested
    again = await queue.enqueue("mail", b"", dedup_key="key")
    assert (again.id, again.new) == ("pending", False)
    await check_jobs(queue)
    await check_entries(queue)
    await inbox_contents.check_taken(queue, START)
    await bulk_contents.work_to_the_end(queue, folder.parent)
    await _end_runs(queue)
    await _end_typed_jobs(queue)
    await _end_jobs(queue, clock)
    await _end_schedule(queue, clock)
    await inbox_contents.work_to_the_end(queue, clock)
    await bulk_contents.check_forgotten(queue)
    for name in await queue.list_queues():
        stats = await queue.stats(name)
        assert (stats.pending, stats.scheduled, stats.claimed) == (0, 0, 0), name


async def _end_runs(queue: Queue) -> None:
    async with WorkflowRuntime(queue, Waits()) as runtime:
        ended = await runtime.status("ended")
        assert ended is not None
        assert (ended.state, ended.result) == (RunState.SUCCEEDED, b"succeeded")
        waits = await runtime.status("waits")
        assert waits is not None
        assert (waits.state, waits.signal_keys) == (RunState.WAITING, ("go",))
        await runtime.signal("go", b"signalled")
        waits = await runtime.wait_for_completion("waits", 60)
        assert waits is not None
        assert (waits.state, waits.result) == (RunState.SUCCEEDED, b"second signalled")


async def _end_typed_jobs(queue: Queue) -> None:
    calls: list[int] = []
    async with JobRunner(queue, jobs=[double], state=calls) as runner:
        ended = await runner.submit(double, 21)
        waits = await runner.submit(double, 4)
        assert (ended.new, waits.new) == (False, False)
        assert (await ended, await waits) == (42, 8)
    assert calls == [4]


async def _end_jobs(queue: Queue, clock: MockClock) -> None:
    handled: dict[str, bytes] = {}

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        handled[job.id] = job.payload

    await queue.requeue_dead("dead")
    await drain(queue, "mail", handle)
    # In the order of claims: by priority, then by id.
    assert list(handled) == ["large", "pending", "claimed", "dead", "woken"]
    assert handled["large"] == LARGE
    await clock.advance(timedelta(seconds=10))
    await drain(queue, "mail", handle)
    await clock.advance(HOUR)
    await drain(queue, "mail", handle)
    assert list(handled)[5:] == ["retried", "scheduled"]
    assert (await queue.stats("mail")).done == 8


async def _end_schedule(queue: Queue, clock: MockClock) -> None:
    fired: list[datetime | None] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        fired.append(firing_time(job))

    scheduler = hourly(queue)
    async with scheduler:
        (schedule,) = await scheduler.schedules()
        assert schedule.last_fired == START + HOUR
        await clock.advance(HOUR)
    await drain(queue, "cron", handle)
    # At 02:00 nobody was there, and missed firings are dropped.
    assert fired == [START + HOUR, START + 3 * HOUR]
