from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import Taquba

pytestmark = pytest.mark.allow_blocking("a command has its event loop for itself")


def job(taquba: Taquba, job_id: str) -> dict[str, object]:
    found: dict[str, object] = taquba.ok("jobs", "show", job_id, "--json").document
    return found


def test_enqueue_prints_the_id_of_a_durable_job(taquba: Taquba) -> None:
    job_id = taquba.ok("enqueue", "mail", "hello").out.strip()
    found = job(taquba, job_id)
    assert (found["queue"], found["payload"], found["status"]) == ("mail", "hello", "pending")


def test_enqueue_with_everything(taquba: Taquba) -> None:
    result = taquba.ok(
        *("enqueue", "mail", "hello", "--id", "mine", "--delay", "1h30m", "--priority", "high"),
        *(
            "--max-attempts",
            "7",
            "--dedup-key",
            "k",
            "--header",
            "a=b=c",
            "--header",
            "d=",
            "--json",
        ),
    )
    assert result.document == {"id": "mine", "new": True, "queue": "mail"}
    found = job(taquba, "mine")
    assert (found["status"], found["priority"], found["max_attempts"]) == ("scheduled", 100, 7)
    assert (found["dedup_key"], found["headers"]) == ("k", {"a": "b=c", "d": ""})
    again = taquba.ok("enqueue", "mail", "other", "--dedup-key", "k")
    assert again.out == "mine\n"
    assert "holds the dedup key 'k'" in again.err


def test_enqueue_at_a_time(taquba: Taquba) -> None:
    taquba.ok("enqueue", "mail", "", "--id", "later", "--run-at", "2100-01-01T00:00:00+01:00")
    assert job(taquba, "later")["run_at"] == "2099-12-31T23:00:00.000Z"


def test_a_payload_from_a_file(taquba: Taquba, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"\xff\x00")
    taquba.ok("enqueue", "mail", "--file", str(tmp_path / "content"), "--id", "mine")
    assert job(taquba, "mine")["payload"] == "/wA="


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mail"], "name the payload once"),
        (["mail", "a", "--file", "b"], "name the payload once"),
        (["mail", "a", "--delay", "soon"], "'soon' is not a duration"),
        (["mail", "a", "--run-at", "2030-01-01"], "has no time zone"),
        (["mail", "a", "--delay", "1s", "--run-at", "2030-01-01T00:00:00Z"], "delay"),
        (["mail", "a", "--priority", "-1"], "priority"),
        (["mail", "a", "--header", "x"], "write name=value"),
        (["mail", "a", "--id", "a b"], "a job id must be 1 to 128 characters"),
        (["x" * 256, "a"], "a queue name must have 1 to 255"),
    ],
)
def test_what_cannot_be_enqueued_is_a_usage_error(
    taquba: Taquba, arguments: list[str], message: str
) -> None:
    before = taquba.all_jobs()
    result = taquba("enqueue", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") <= 2
    assert taquba.all_jobs() == before


def test_an_id_that_exists_is_a_failure(taquba: Taquba) -> None:
    result = taquba("enqueue", "mail", "x", "--id", "done")
    assert result.code == 1
    assert "'done' already exists" in result.err


def test_a_missing_file_is_a_failure(taquba: Taquba) -> None:
    result = taquba("enqueue", "mail", "--file", "/nowhere/x")
    assert (result.code, result.err) == (
        1,
        "taquba: cannot read /nowhere/x: No such file or directory\n",
    )


@pytest.mark.parametrize("command", [["enqueue", "mail", "x"], ["kv", "put", "k", "v"]])
def test_a_store_is_made_only_when_told_to(
    taquba: Taquba, tmp_path: Path, command: list[str]
) -> None:
    taquba.store = tmp_path / "new"
    result = taquba(*command)
    assert (result.code, result.err) == (4, f"taquba: {taquba.store} holds no taquba store\n")
    assert not taquba.store.exists()
    taquba.ok(*command, "--create")
    taquba.ok("stats")


def test_a_store_in_memory_cannot_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    from taquba._cli.app import run

    assert run(["enqueue", "mail", "x", "--create", "--store", "memory://x"]) == 2
    assert "a store in memory ends with its process" in capsys.readouterr().err


def test_cancel(taquba: Taquba) -> None:
    assert taquba.ok("cancel", "pending").out == "the job was removed\n"
    assert taquba.ok("cancel", "scheduled", "--json").document == {
        "id": "scheduled",
        "outcome": "removed",
    }
    assert taquba("cancel", "pending").code == 4
    result = taquba("cancel", "dead-old")
    assert result.code == 1
    assert "job 'dead-old' is dead; this needs a job that is pending or scheduled" in result.err


def test_wake(taquba: Taquba) -> None:
    assert taquba.ok("wake", "scheduled", "--payload", "go").out == "the job is pending\n"
    found = job(taquba, "scheduled")
    assert (found["status"], found["wake_payload"]) == ("pending", "go")
    assert taquba("wake", "none").code == 4
    assert taquba("wake", "pending").code == 1


def test_entries(taquba: Taquba, tmp_path: Path) -> None:
    taquba.ok("kv", "put", "config/limit", "200")
    assert taquba.ok("kv", "get", "config/limit").out == "200"
    (tmp_path / "large").write_bytes(b"x" * (256 * 1024 + 1))
    result = taquba("kv", "put", "k", "--file", str(tmp_path / "large"))
    assert result.code == 2
    assert "at most 262144 fit" in result.err
    assert taquba.ok("kv", "put", "k", "v", "--json").document == {
        "key": "k",
        "key_encoding": "utf-8",
        "size": 1,
    }
    assert taquba.ok("kv", "delete", "k").out == "deleted\n"
    assert taquba("kv", "delete", "k").code == 4


# -- dead letters -------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["requeue", "purge"])
def test_without_yes_nothing_changes(taquba: Taquba, action: str) -> None:
    before = taquba.all_jobs()
    result = taquba.ok("dead", action, "--all")
    assert f"2 dead letters would be {action}d; nothing was changed." in result.out
    assert "dead-old" in result.out
    assert "--yes" in result.err
    document = taquba.ok("dead", action, "--all", "--json").document
    assert document == {
        "dry_run": True,
        f"{action}d": 0,
        "would_be": 2,
        "job_ids": ["dead-old", "dead-new"],
    }
    assert taquba.all_jobs() == before


def test_requeue(taquba: Taquba) -> None:
    assert taquba.ok("dead", "requeue", "--error", "timeout", "--yes").out == (
        "1 dead letter requeued\n"
    )
    assert (job(taquba, "dead-new")["status"], job(taquba, "dead-new")["attempts"]) == (
        "pending",
        0,
    )
    assert job(taquba, "dead-old")["status"] == "dead"


def test_purge(taquba: Taquba) -> None:
    result = taquba.ok("dead", "purge", "dead-old", "-y", "--json")
    assert result.document == {"dry_run": False, "purged": 1, "gone": 0}
    assert taquba("jobs", "show", "dead-old").code == 4
    assert taquba.ok("dead", "purge", "--all", "--yes").out == "1 dead letter purged\n"
    assert taquba.ok("stats", "--json").document["dead"] == 0


def test_many_dead_letters_are_requeued_page_by_page(taquba: Taquba) -> None:
    import asyncio

    from taquba import EnqueueRequest, Queue

    async def kill_many() -> None:
        async with Queue.open(taquba.store) as queue:
            await queue.enqueue_batch(EnqueueRequest("many", b"") for _ in range(1201))
            claims = await queue.claim_batch("many", 1201)
            await asyncio.gather(*(queue.dead_letter(claim, "boom") for claim in claims))

    asyncio.run(kill_many())
    assert "... and 1,181 more" in taquba.ok("dead", "requeue", "-q", "many").out
    assert "1,201 dead letters requeued" in taquba.ok("dead", "requeue", "-q", "many", "-y").out
    assert taquba.ok("stats", "-q", "many", "--json").document["pending"] == 1201


@pytest.mark.parametrize("chosen", [[], ["--all", "-q", "mail"], ["--all", "dead-old"]])
def test_it_must_be_said_which_dead_letters(taquba: Taquba, chosen: list[str]) -> None:
    result = taquba("dead", "purge", "--yes", *chosen)
    assert result.code == 2
    assert "select dead letters by" in result.err
    assert taquba.ok("stats", "--json").document["dead"] == 2


def test_a_named_job_that_is_not_dead_stops_everything_before_it_starts(taquba: Taquba) -> None:
    result = taquba("dead", "purge", "dead-old", "pending", "--yes")
    assert result.code == 1
    assert "job 'pending' is pending" in result.err
    assert taquba("dead", "purge", "nope", "--yes").code == 4
    assert taquba.ok("stats", "--json").document["dead"] == 2


def test_a_command_sweeps_nothing_that_the_application_keeps(taquba: Taquba) -> None:
    """Done jobs and old dead letters stay, whatever settings a short-lived owner would have."""
    taquba.ok("kv", "put", "k", "v")
    found = {job["id"] for job in taquba.all_jobs()}
    assert {"done", "dead-old"} <= found


# -- large payloads -----------------------------------------------------------------------------


def large(tmp_path: Path) -> str:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 300 * 1024)
    return str(path)


def objects(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def test_large_payloads_at_a_place_of_their_own(
    taquba: Taquba, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = tmp_path / "elsewhere"
    monkeypatch.setenv("TAQUBA_PAYLOAD_URL", str(payloads))
    taquba.ok("enqueue", "mail", "--file", large(tmp_path), "--id", "large")
    assert len(objects(payloads)) == 1
    assert len(str(job(taquba, "large")["payload"])) == 300 * 1024
    assert "300.0 KiB" in taquba.ok("jobs", "show", "large").out
    taquba.ok("cancel", "large")
    assert objects(payloads) == []


def test_a_listing_reads_no_large_payloads(taquba: Taquba, tmp_path: Path) -> None:
    taquba.ok("enqueue", "mail", "--file", large(tmp_path), "--id", "large")
    [payload] = objects(tmp_path / "store-payloads")
    payload.unlink()
    listed = taquba.ok("jobs", "list", "-q", "mail", "--status", "pending", "--json")
    assert [found["id"] for found in listed.lines] == ["large", "pending"]
    assert listed.err == ""
    assert listed.lines[0]["payload_ref"]
    shown = taquba.ok("jobs", "show", "large", "--json")
    assert shown.document["payload"] is None
    assert "large" in shown.err
