"""`taquba bulk run`: runs, is stopped, goes on; what it prints and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from taquba._cli.content import content
from taquba.cli import CommandError
from taquba_bulk import ProgressSnapshot
from taquba_bulk._cli import _lines_of
from taquba_bulk._display import line_of, span
from tests.bulk.support import rows_of
from tests.cli.support import PATIENCE, Taquba, finish, start
from tests.cli.test_terminal import ESCAPES, on_terminal

pytestmark = pytest.mark.allow_blocking("a command has its event loop for itself")

PIPELINE = """
import asyncio
from pathlib import Path
from taquba import PermanentFailure
from taquba_bulk import BulkContext, PaidCall

async def shout(ctx: BulkContext[dict[str, str]]) -> str:
    async def call(paid: PaidCall) -> str:
        with open(Path(__file__).with_name("calls"), "a") as calls:
            calls.write(ctx.input["id"] + "\\n")
        await asyncio.sleep(float(ctx.input.get("seconds", "0")))
        ctx.record_cost("usd", 0.01)
        return ctx.input["id"].upper()

    if ctx.input["id"] == "bad":
        raise PermanentFailure("no good")
    return await ctx.paid_call("shout", call, reserve={"usd": 0.02})
"""


class Folder:
    """A folder with a pipeline and its inputs."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.out = path / "out.jsonl"
        self.taquba = Taquba(capsys, path / "store")
        # A name of its own: modules stay imported.
        self.module = f"pipeline_{abs(hash(path))}"
        (path / f"{self.module}.py").write_text(PIPELINE)

    def write(self, *ids: str, seconds: float = 0) -> None:
        lines = (json.dumps({"id": id_, "seconds": str(seconds)}) + "\n" for id_ in ids)
        (self.path / "in.jsonl").write_text("".join(lines))

    def command(self, *options: str) -> list[str]:
        return ["bulk", "run", f"{self.module}:shout", "in.jsonl", "out.jsonl", *options]

    def calls(self) -> list[str]:
        found = self.path / "calls"
        return found.read_text().splitlines() if found.exists() else []


@pytest.fixture
def folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path, capsys)


def test_a_batch_runs_and_the_second_time_finds_all_done(folder: Folder) -> None:
    folder.write("a", "b", "bad")
    result = folder.taquba.ok(*folder.command("--key", "id"))
    assert result.out.startswith("2 succeeded, 1 failed; ")
    assert "cost: 0.02 usd\n" in result.out
    assert result.out.endswith("failed: bad\n")
    assert [row.get("output", row.get("error")) for row in rows_of(folder.out)] == [
        "A",
        "B",
        "no good",
    ]
    report = folder.taquba.ok(*folder.command("--key", "id", "--json")).document
    assert report.pop("elapsed_seconds") > 0
    assert report == {
        "total": 3,
        "succeeded": 2,
        "failed": 1,
        "cancelled": 0,
        "resumed": 3,
        "complete": True,
        "cost": {"usd": 0.02},
        "spent": {},
        "failed_run_ids": ["bad"],
    }
    assert sorted(folder.calls()) == ["a", "b"]


def test_a_budget_stops_the_batch_and_a_larger_one_lets_it_go_on(folder: Folder) -> None:
    folder.write(*"abcdef")
    options = ["-c", "1", "--rate", "llm=5/1m"]
    stopped = folder.taquba(*folder.command(*options, "--budget", "usd=0.045", "--json"))
    assert stopped.code == 1
    assert stopped.document["spent"] == {"usd": 0.03}
    assert "the budget of 0.045 usd does not allow" in stopped.err
    report = folder.taquba.ok(*folder.command(*options, "--budget", "usd=1", "--json")).document
    assert (report["complete"], report["spent"]) == (True, {"usd": 0.06})
    assert len(folder.calls()) == 6


def test_inputs_come_from_standard_input_or_from_a_pipe(folder: Folder) -> None:
    command = folder.command("-s", "store", "--key", "id")
    command[3] = "-"
    child = start(*command, cwd=folder.path, stdin=subprocess.PIPE)
    out, err = child.communicate('{"id": "a"}\n{"id": "b"}', timeout=PATIENCE)
    assert out.startswith("2 succeeded, 0 failed; "), err
    command[3] = "named"
    os.mkfifo(folder.path / "named")
    child = start(*command, cwd=folder.path)
    (folder.path / "named").write_text('{"id": "b"}\n{"id": "c"}\n')
    result = finish(child)
    assert result.out.startswith("2 succeeded, 0 failed, 1 of them before; "), result
    assert folder.calls() == ["a", "b", "c"]


def test_ctrl_c_ends_a_batch_that_waits_for_standard_input(folder: Folder) -> None:
    command = folder.command("-s", "store")
    command[3] = "-"
    child = start(*command, cwd=folder.path, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write('{"id": "a"}\n')
    child.stdin.flush()
    deadline = time.monotonic() + PATIENCE
    while not folder.calls():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    child.wait(PATIENCE)
    assert child.returncode == 130
    assert "run it again to continue" in finish(child).err


def test_standard_input_that_is_closed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CommandError, match="standard input is closed: name a file"):
        _lines_of(Path("-"))
    with pytest.raises(CommandError, match="standard input is closed: name the payload"):
        content("payload", "-", None)


def test_a_folder_is_no_input(folder: Folder) -> None:
    command = folder.command()
    command[3] = "."
    refused = folder.taquba(*command)
    assert refused.code == 2
    assert ". is a folder: name a file, or -" in refused.err


def test_ctrl_c_lets_running_items_end_and_the_next_run_goes_on(folder: Folder) -> None:
    ids = [f"item-{n}" for n in range(12)]
    folder.write(*ids, seconds=0.3)
    command = folder.command("-s", "store", "-c", "2")
    child = start(*command, cwd=folder.path)
    deadline = time.monotonic() + PATIENCE
    while len(folder.calls()) < 2:
        assert child.poll() is None, finish(child)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    result = finish(child)
    assert result.code == 130, result
    assert "letting running items end" in result.err
    assert "run it again to continue" in result.err
    assert 2 <= len(rows_of(folder.out)) == len(folder.calls()) < len(ids)
    result = finish(start(*command, cwd=folder.path))
    assert result.code == 0, result
    assert result.out.startswith("12 succeeded, 0 failed, ")
    # Nothing that was paid for is paid again.
    assert sorted(folder.calls()) == sorted(ids)
    assert len(rows_of(folder.out)) == 12


def test_a_second_ctrl_c_cancels_what_is_running(folder: Folder) -> None:
    folder.write("a", seconds=3600)
    child = start(*folder.command("-s", "store"), cwd=folder.path)
    while not folder.calls():
        assert child.poll() is None
        time.sleep(0.01)
    assert child.stderr is not None
    child.send_signal(signal.SIGINT)
    assert "Ctrl-C again" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    assert finish(child).code == 130


def test_a_terminal_shows_a_bar_with_rate_and_cost(folder: Folder) -> None:
    folder.write(*"abc")
    arguments = folder.command("-s", str(folder.path / "store"))
    code, output = on_terminal(*arguments, columns=100)
    assert code == 0, output
    shown = ESCAPES.sub("", output)
    assert "━" in shown
    assert "3/3 done" in shown
    assert "0.03 usd" in shown
    assert "3 succeeded, 0 failed" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["shout", "in.jsonl", "out.jsonl"], 2, "module:pipeline"),
        (["json:dumps", "in.jsonl", "out.jsonl"], 2, "async def run(ctx)"),
        (["{module}:shout", "none.jsonl", "out.jsonl"], 4, "no file none.jsonl"),
        (["{module}:shout", "in.jsonl", "out.jsonl", "--rate", "llm=5"], 2, "period of time"),
        (["{module}:shout", "in.jsonl", "out.jsonl", "--rate", "llm"], 2, "llm=500/1m"),
        (["{module}:shout", "in.jsonl", "out.jsonl", "--budget", "50"], 2, "usd=50"),
        (["{module}:shout", "in.jsonl", "out.jsonl", "--fail-threshold", "5%"], 2, "0.05"),
        (["{module}:shout", "in.jsonl", "out.jsonl", "--key", "name"], 2, "no field 'name'"),
        (["{module}:shout", "in.jsonl", "in.jsonl"], 2, "did not write"),
    ],
)
def test_what_cannot_be_run_is_named(
    folder: Folder, arguments: list[str], code: int, told: str
) -> None:
    folder.write("a")
    result = folder.taquba("bulk", "run", *(a.format(module=folder.module) for a in arguments))
    assert result.code == code
    assert told in result.err


def test_progress_in_a_line() -> None:
    progress = ProgressSnapshot(
        total=10_000,
        done=1_234,
        succeeded=1_230,
        failed=4,
        in_flight=100,
        rate=85.123,
        eta=timedelta(seconds=103),
        cost={"tokens": 5_000_000, "usd": 1.5},
    )
    assert line_of(progress) == (
        "1,234/10,000 done, 85.1/s, 1m43s left, 4 failed, 5,000,000 tokens, 1.5 usd"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m"), (61, "1m1s"), (7200, "2h"), (90_000, "1d1h"), (3_660, "1h1m")],
)
def test_lengths_of_time_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text
