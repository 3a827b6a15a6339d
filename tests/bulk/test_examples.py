"""The example programs, run as their reader would."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.bulk.support import rows_of

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
DOCS = EXAMPLES.parent / "docs"
SECONDS = 100


def start(example: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / example), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def told(child: subprocess.Popen[str]) -> str:
    output, errors = child.communicate(timeout=SECONDS)
    assert (child.returncode, errors) == (0, "")
    return output


def test_documents_are_digested_once_though_the_program_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = [DOCS, "--store", tmp_path / "store", "--out", out, "--seconds", 0.1]
    child = start("bulk_documents.py", *arguments)
    deadline = time.monotonic() + SECONDS
    while not out.exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.random())
    child.kill()
    child.communicate()
    assert "complete: True" in told(start("bulk_documents.py", *arguments))
    documents = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    rows = rows_of(out)
    assert len(rows) == len(documents)
    assert {row["output"]["path"] for row in rows} == documents
    again = told(start("bulk_documents.py", *arguments))
    assert again.startswith(f"{len(rows)} documents, {len(rows)} of them done before")


def test_every_prompt_is_charged_once_whatever_the_service_does(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["--store", tmp_path / "store", "--out", out, "--prompts", 100]
    report = told(start("bulk_llm.py", *arguments))
    assert "charged 100 calls, 0.200 usd" in report
    assert "100 of 100 succeeded, 0 of them before, 0 failed; cost 0.200 usd" in report
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["output"][::-1] for row in rows} == {f"prompt {n}" for n in range(100)}


def test_a_budget_that_is_too_small_stops_the_prompts_and_a_larger_one_goes_on(
    tmp_path: Path,
) -> None:
    arguments = ["--store", tmp_path / "store", "--out", tmp_path / "out", "--prompts", 40]
    stopped = told(start("bulk_llm.py", *arguments, "--budget", 0.05))
    assert "the budget of 0.05 usd does not allow" in stopped
    assert "40 of 40 succeeded" in told(start("bulk_llm.py", *arguments))
