"""The peers bench without the peers: what needs neither servers nor an index of packages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benches.peers.__main__ import main
from benches.peers.catalog import STORES, Peer, peers
from benches.peers.report import markdown, plain
from benches.peers.runner import Work, measure

ROOT = Path(__file__).parent.parent
SMALL = ("--jobs", "60", "--idle-jobs", "3", "--concurrency", "5")
WORK = Work(jobs=60, idle_jobs=3, concurrency=5, seconds=60)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the bench makes its folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def taquba() -> Peer:
    [found] = [peer for peer in peers() if peer.name == "taquba"]
    return found


def test_taquba_is_measured_in_every_round_and_nothing_is_left_behind(
    scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert main([*SMALL, "--peers", "taquba", "--rounds", "2", "--json", str(report)]) == 0
    assert "taquba this checkout" in capsys.readouterr().out
    [measured] = json.loads(report.read_text("utf-8"))["peers"]
    assert measured["failure"] is None
    assert "fsync" in measured["durability"]
    assert len(measured["rounds"]) == 2
    for values in measured["rounds"]:
        assert set(values) == {"enqueue", "bulk", "process", "p50", "p99"}
        assert all(value > 0 for value in values.values())
        assert values["p50"] <= values["p99"]
    assert list(scratch.iterdir()) == []


def test_a_peer_that_fails_is_named_with_the_reason_and_the_others_are_measured(
    tmp_path: Path,
) -> None:
    broken = replace(taquba(), name="broken", driver="no_such_driver")
    results = measure([broken, taquba()], WORK, 1, tmp_path)
    assert "no_such_driver" in (results[0].failure or "")
    assert results[1].failure is None
    for shown in (plain(results), markdown([], WORK.concurrency, results)):
        assert re.search(r"broken .*not measured: .*no_such_driver", shown)
        assert "taquba this checkout" in shown


def test_a_driver_that_takes_too_long_is_ended_and_reported(tmp_path: Path) -> None:
    endless = replace(WORK, jobs=10_000_000, seconds=1)
    [result] = measure([taquba()], endless, 1, tmp_path)
    assert result.failure == "bulk took more than 1 s"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_no_data(
    scratch: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "benches.peers", "--peers", "taquba", "--jobs", "10000000"]
    bench = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(scratch)}, stderr=subprocess.PIPE
    )
    driver = _child_of(bench)
    bench.send_signal(number)
    _, errors = bench.communicate(timeout=60)
    assert bench.returncode == 130, errors
    assert list(scratch.iterdir()) == []
    assert not Path(f"/proc/{driver}").exists()


def _child_of(process: subprocess.Popen[bytes]) -> int:
    """The process id of its only child, as soon as there is one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        process.communicate()
        pytest.skip("the system does not list the children of a process")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := children.read_text("ascii").split():
            return int(found[0])
        time.sleep(0.01)
    raise AssertionError("no driver was started")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peers", "taquba,rabbit"), "there is no peer 'rabbit'; there are taquba, "),
        (("--peers", ""), "there is no peer ''"),
        (("--jobs", "1"), "must be at least 2, got 1"),
        (("--jobs", "many"), "'many'"),
        (("--idle-jobs", "0"), "must be at least 1, got 0"),
        (("--rounds", "0"), "must be at least 1, got 0"),
        (("--concurrency", "-1"), "must be at least 1, got -1"),
        (("--seconds", "0"), "must be at least 1, got 0"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(
    arguments: tuple[str, str], message: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert list(scratch.iterdir()) == []


def test_every_peer_is_pinned_and_says_how_it_is_configured() -> None:
    names = [peer.name for peer in peers()]
    assert names[0] == "taquba"
    assert len(names) == len(set(names))
    for peer in peers():
        assert peer.store in STORES
        assert peer.settings
        assert all(re.fullmatch(r"[^=<>~]+==[\w.]+", pin) for pin in peer.dependencies)
        assert peer.dependencies or peer.name == "taquba"
        assert "{" not in peer.configured(50)
