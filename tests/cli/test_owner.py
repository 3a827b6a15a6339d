"""Commands beside an owner that lives in another process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from taquba import StoreOwned
from taquba._cli.errors import ExitCode, code_of
from tests.cli.support import Taquba, owner
from tests.cli.test_look import LOOKS

pytestmark = pytest.mark.allow_blocking("a command has its event loop for itself")

CHANGES = [
    ["enqueue", "mail", "x"],
    ["cancel", "pending"],
    ["wake", "scheduled"],
    ["dead", "requeue", "--all", "--yes"],
    ["dead", "purge", "--all", "--yes"],
    ["kv", "put", "k", "v"],
    ["kv", "delete", "config/limit"],
]


def test_looking_does_not_disturb_an_owner(taquba: Taquba) -> None:
    with owner(taquba.store) as other:
        for command in LOOKS:
            taquba.ok(*command)
        assert taquba.ok("stats", "--json").document["owner"] == "present"
        job_id = other.tell("hello")
        assert taquba.ok("jobs", "show", job_id, "--json").document["payload"] == "hello"


def test_changes_are_refused_while_an_owner_lives(taquba: Taquba) -> None:
    with owner(taquba.store) as other:
        before = taquba.all_jobs()
        for command in CHANGES:
            result = taquba(*command)
            assert (result.code, result.out) == (3, "")
            assert "a process on this machine has the store open" in result.err
            assert f"process {other.child.pid} on " in result.err
            assert "--take-over" in result.err
        assert taquba.all_jobs() == before
        assert other.tell("still there") != "fenced"


def test_a_worker_does_not_wait_for_an_owner_that_lets_nobody_take_part(
    taquba: Taquba, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_owner.py").write_text("async def handle(job, lease): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with owner(taquba.store) as other:
        result = taquba("worker", "beside_owner:handle", "-q", "mail")
        assert (result.code, result.out) == (3, "")
        assert "a process on this machine has the store open" in result.err
        assert f"process {other.child.pid} on " in result.err
        assert "let it be a Service" in result.err
        assert other.tell("still there") != "fenced"


def test_take_over_fences_the_owner(taquba: Taquba) -> None:
    with owner(taquba.store) as other:
        job_id = taquba.ok("enqueue", "mail", "x", "--take-over").out.strip()
        assert other.tell("gone") == "fenced"
        # The store was closed again, so nothing needs to be taken over from the fenced process.
        taquba.ok("cancel", job_id)


def test_an_owner_that_comes_while_a_command_looks_for_one_is_left_alone() -> None:
    assert code_of(StoreOwned("./data")) is ExitCode.REFUSED


def test_a_killed_owner_is_not_in_the_way(taquba: Taquba) -> None:
    with owner(taquba.store) as other:
        other.tell("last words")
    assert "the last owner died" in taquba.ok("stats").out
    taquba.ok("enqueue", "mail", "x")
    assert taquba.ok("stats", "-q", "told", "--json").document["pending"] == 1


def test_where_it_cannot_be_known_take_over_must_be_said(taquba: Taquba) -> None:
    """Without the lock file a store looks like one in a bucket whose owner was killed."""
    with owner(taquba.store):
        pass
    (taquba.store / "owner.lock").unlink()
    result = taquba("enqueue", "mail", "x")
    assert result.code == 3
    assert "an owner may live: the store was not closed" in result.err
    taquba.ok("enqueue", "mail", "x", "--take-over")
    taquba.ok("enqueue", "mail", "x")
