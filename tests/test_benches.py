from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benches.__main__ import load, main, names

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", names())
def test_bench_runs_on_memory(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    bench = load(name)
    assert bench.name == name
    rows = bench.main(["--store", "memory", "--runs", "1", "--json", str(report), *bench.small])
    assert rows
    shown = capsys.readouterr().out
    assert all(row.case in shown for row in rows)
    written = json.loads(report.read_text("utf-8"))
    assert [row["case"] for row in written["medians"]] == [row.case for row in rows]


def test_the_list_names_every_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in names())


def test_an_unknown_bench_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enqeue"]) == 2
    assert "there is no bench 'enqeue'" in capsys.readouterr().err


def test_a_bench_runs_as_a_module_on_a_folder() -> None:
    # Cold start is the one that needs a store which outlives a process.
    result = subprocess.run(
        [sys.executable, "-m", "benches.cold_start", "--runs", "1", "--jobs", "300"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "kill -9" in result.stdout
