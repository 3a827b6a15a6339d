"""`taquba worker --until-empty`: what a cron job or a function as a service runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from taquba import SyncProducer
from tests.cli.support import Result, Taquba, finish, start
from tests.cli.test_program import lines_until

pytestmark = pytest.mark.allow_blocking("a command has its event loop for itself")

HANDLERS = """
import asyncio
from taquba import EnqueueRequest, PermanentFailure, SettlementEffects

async def handle(job, lease):
    print("ran", job.payload.decode(), flush=True)
    if job.payload == b"chain":
        return SettlementEffects(enqueues=[EnqueueRequest("mail", b"link")])
    if job.payload == b"bad":
        raise PermanentFailure("no such address")
    if job.payload == b"flaky":
        raise ConnectionError("not now")
    if job.payload == b"slow":
        await asyncio.sleep(3600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return tmp_path


def work_off(folder: Path, *more: str) -> Result:
    """Run the command in a process of its own, until it ends by itself."""
    arguments = ("handlers:handle", "-q", "mail", "-s", str(folder / "store"), "--until-empty")
    return finish(start("worker", *arguments, "--json", *more, cwd=folder))


def ran(result: Result) -> tuple[list[str], dict[str, object]]:
    """The payloads of the jobs that ran, and the counters at the end."""
    assert result.code == 0, result
    assert "Traceback" not in result.err
    printed, _, document = result.out.partition("{")
    lines = [line.removeprefix("ran ") for line in printed.splitlines()]
    return lines, json.loads("{" + document)


def test_it_ends_by_itself_when_everything_is_worked_off(folder: Path) -> None:
    """The first run creates the store, and producers can use it from then on."""
    nothing = {"pending": 0, "scheduled": 0, "claimed": 0, "done": 0, "dead": 0}
    lines, counters = ran(work_off(folder, "--create"))
    assert (lines, counters) == ([], {"queue": "mail", "done_here": 0, **nothing})
    with SyncProducer.open(folder / "store") as producer:
        for payload in (b"one", b"chain", b"bad"):
            producer.enqueue("mail", payload)
        producer.enqueue("mail", b"late", delay=3600)
    lines, counters = ran(work_off(folder))
    assert lines == ["one", "chain", "bad", "link"]
    after = nothing | {"scheduled": 1, "done": 3, "dead": 1}
    assert counters == {"queue": "mail", "done_here": 3, **after}
    lines, counters = ran(work_off(folder))
    assert (lines, counters["done_here"], counters["scheduled"]) == ([], 0, 1)


def test_jobs_that_fail_do_not_change_the_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taquba = Taquba(capsys, folder / "store")
    taquba.ok("enqueue", "mail", "flaky", "--create")
    taquba.ok("enqueue", "mail", "flaky", "--max-attempts", "1")
    result = work_off(folder)
    assert result.code == 0, result
    counters = json.loads(result.out[result.out.index("{") :])
    assert (counters["scheduled"], counters["dead"]) == (1, 1)


def test_a_signal_ends_it_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taquba = Taquba(capsys, folder / "store")
    taquba.ok("enqueue", "mail", "slow", "--create")
    child = start(
        "worker", "handlers:handle", "-q", "mail", "-s", str(taquba.store), "--until-empty",
        "--drain-timeout", "0", cwd=folder,
    )  # fmt: skip
    lines_until(child, "ran slow")
    child.send_signal(signal.SIGTERM)
    result = finish(child)
    assert result.code == 0, result
    assert "1 waiting" in result.err
    (job,) = taquba.all_jobs()
    assert (job["status"], job["attempts"]) == ("pending", 0)
