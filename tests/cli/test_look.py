from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from taquba import Queue
from taquba._model import keys
from taquba._store.transaction import Transaction
from tests.cli.support import Taquba

pytestmark = pytest.mark.allow_blocking("a command has its event loop for itself")


def files(store: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in store.rglob("*")
        if path.is_file()
    }


def test_stats(taquba: Taquba) -> None:
    document = taquba.ok("stats", "--json").document
    counts = {"pending": 1, "scheduled": 1, "claimed": 0, "done": 1, "dead": 2}
    assert {name: document[name] for name in counts} == counts
    assert document["queues"] == ["mail", "reports"]
    assert document["owner"] == "absent"
    assert document["heartbeat_at"] is None
    assert datetime.fromisoformat(document["changed_at"]).tzinfo is not None
    shown = taquba.ok("stats").out
    assert str(taquba.store) in shown
    assert "absent: the last owner closed the store at" in shown


def test_stats_of_a_queue(taquba: Taquba) -> None:
    assert taquba.ok("stats", "-q", "mail", "--json").document["dead"] == 2
    result = taquba("stats", "-q", "none")
    assert (result.code, result.out) == (4, "")
    assert "no queue 'none'" in result.err


def test_queues(taquba: Taquba) -> None:
    assert taquba.ok("queues", "--json").lines == [
        {"queue": "mail", "pending": 1, "scheduled": 0, "claimed": 0, "done": 0, "dead": 2},
        {"queue": "reports", "pending": 0, "scheduled": 1, "claimed": 0, "done": 1, "dead": 0},
    ]
    shown = [line.split() for line in taquba.ok("queues").out.splitlines()]
    assert shown == [
        ["QUEUE", "PENDING", "SCHEDULED", "CLAIMED", "DONE", "DEAD"],
        ["mail", "1", "0", "0", "0", "2"],
        ["reports", "0", "1", "0", "1", "0"],
    ]


def test_jobs_of_all_queues_and_states(taquba: Taquba) -> None:
    jobs = taquba.all_jobs()
    assert [(job["id"], job["status"]) for job in jobs] == [
        ("pending", "pending"),
        ("dead-old", "dead"),
        ("dead-new", "dead"),
        ("scheduled", "scheduled"),
        ("done", "done"),
    ]
    shown = taquba.ok("jobs", "list").out.splitlines()
    assert len(shown) == 6
    assert "no such address really \\x1b[31mnot\\x1b[0m" in shown[2]
    assert "10 d ago" in shown[2]
    assert re.search(r"in 5\d min", shown[4])


def test_a_job_that_cannot_be_read_is_named_beside_the_others(taquba: Taquba) -> None:
    before = taquba.ok("jobs", "list", "-q", "mail", "--status", "dead", "--json").lines
    asyncio.run(_damage(taquba.store, before[0]))
    listed = taquba.ok("jobs", "list", "-q", "mail", "--status", "dead", "--json")
    assert [line["id"] for line in listed.lines] == [line["id"] for line in before[1:]]
    assert f"the record of job '{before[0]['id']}' of queue 'mail' cannot be read" in listed.err
    purged = taquba.ok("dead", "purge", before[0]["id"], "--yes")
    assert "1 dead letter purged" in purged.out
    assert not taquba.ok("jobs", "list", "-q", "mail", "--status", "dead", "--json").err


async def _damage(store: Path, letter: dict[str, Any]) -> None:
    at = round(datetime.fromisoformat(letter["failed_at"]).timestamp() * 1000)
    async with Queue.open(store) as queue:
        transaction = Transaction()
        key = keys.finished(keys.DEAD, "mail", at, letter["id"])
        transaction.ops.append((key, b"\xc1"))
        await queue._owner.committer.submit(transaction, durable=True)


def test_the_json_of_a_job(taquba: Taquba) -> None:
    (job,) = taquba.ok("jobs", "list", "-q", "mail", "--status", "pending", "--json").lines
    enqueued_at = job.pop("enqueued_at")
    assert enqueued_at.endswith("Z")
    assert job == {
        "id": "pending",
        "queue": "mail",
        "status": "pending",
        "priority": 1000,
        "attempts": 0,
        "max_attempts": 3,
        "run_at": None,
        "claimed_at": None,
        "completed_at": None,
        "failed_at": None,
        "last_error": None,
        "dedup_key": "c",
        "headers": {},
        "cancel_requested": False,
        "suspect": False,
        "worker": None,
        "woken_at": None,
        "payload_ref": None,
    }


def test_several_states_and_payloads(taquba: Taquba) -> None:
    found = taquba.ok(
        "jobs", "list", "--status", "dead", "--status", "done", "--payload", "--json"
    ).lines
    assert [(job["id"], job["payload"]) for job in found] == [
        ("dead-old", "to a"),
        ("dead-new", "to b"),
        ("done", ""),
    ]


def test_a_limit_says_that_there_is_more(taquba: Taquba) -> None:
    result = taquba.ok("jobs", "list", "-n", "2", "--json")
    assert len(result.lines) == 2
    assert "only the first 2 are shown" in result.err
    assert taquba.ok("jobs", "list", "-n", "5").err == ""


def test_show(taquba: Taquba) -> None:
    shown = taquba.ok("jobs", "show", "dead-old").out
    for text in ("dead-old", "mail", "header trace", "to a", "4 B", "10 d ago", "\\x1b[31mnot"):
        assert text in shown
    assert "\x1b" not in shown
    document = taquba.ok("jobs", "show", "dead-new", "--json").document
    assert (document["payload"], document["payload_encoding"]) == ("to b", "utf-8")
    assert (document["wake_payload"], document["wake_payload_encoding"]) == ("now", "utf-8")
    assert document["woken_at"] is not None


def test_a_payload_that_is_no_text(taquba: Taquba) -> None:
    document = taquba.ok("jobs", "show", "scheduled", "--json").document
    assert document["payload_encoding"] == "base64"
    assert base64.b64decode(document["payload"]) == b"\xff\x00"
    assert "2 bytes: ff 00" in taquba.ok("jobs", "show", "scheduled").out


def test_history(taquba: Taquba) -> None:
    attempts = taquba.ok("jobs", "history", "dead-new", "--json").lines
    assert [(entry["attempt"], entry["outcome"], entry["error"]) for entry in attempts] == [
        (1, "retried", "timeout"),
        (2, "dead_lettered", "Timeout again"),
    ]
    (worker,) = {entry["worker"] for entry in attempts}
    assert worker.split(":")[:2] == [socket.gethostname(), str(os.getpid())]
    assert taquba.ok("jobs", "show", "dead-new", "--json").document["worker"] == worker
    assert worker in taquba.ok("jobs", "show", "dead-new").out
    shown = taquba.ok("jobs", "history", "dead-new").out.splitlines()
    assert all(worker in line for line in shown[1:])
    assert len(shown) == 3
    assert "0.000 s" in shown[1]
    assert taquba.ok("jobs", "history", "pending", "--json").out == ""


@pytest.mark.parametrize("what", ["show", "history"])
def test_a_job_that_is_not_there(taquba: Taquba, what: str) -> None:
    result = taquba("jobs", what, "nope")
    assert (result.code, result.out) == (4, "")
    assert result.err == (
        "taquba: no job with id 'nope': it never existed, or it finished and was removed\n"
    )


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([], ["dead-old", "dead-new"]),
        (["-q", "mail"], ["dead-old", "dead-new"]),
        (["-q", "reports"], []),
        (["--error", "TIMEOUT"], ["dead-new"]),
        (["--older-than", "1d"], ["dead-old"]),
        (["--newer-than", "1d"], ["dead-new"]),
        (["--older-than", "30m", "--newer-than", "2h", "--error", "again"], ["dead-new"]),
        (["--newer-than", "30m"], []),
    ],
)
def test_dead_letters(taquba: Taquba, filters: list[str], ids: list[str]) -> None:
    found = taquba.ok("dead", "list", *filters, "--json").lines
    assert [job["id"] for job in found] == ids
    assert len(taquba.ok("dead", "list", *filters).out.splitlines()) == 1 + len(ids)


def test_entries(taquba: Taquba) -> None:
    assert taquba.ok("kv", "get", "config/limit").out == "100"
    assert taquba.ok("kv", "get", "config/limit", "--json").document == {
        "key": "config/limit",
        "key_encoding": "utf-8",
        "value": "100",
        "value_encoding": "utf-8",
    }
    found = taquba.ok("kv", "scan", "--json").lines
    assert [(entry["key"], entry["key_encoding"]) for entry in found] == [
        ("config/limit", "utf-8"),
        (base64.b64encode(b"\xff/binary").decode(), "base64"),
    ]
    assert [entry["key"] for entry in taquba.ok("kv", "scan", "con", "--json").lines] == [
        "config/limit"
    ]
    result = taquba.ok("kv", "scan", "-n", "1")
    assert "config/limit" in result.out
    assert "only the first 1" in result.err
    missing = taquba("kv", "get", "none")
    assert (missing.code, missing.out) == (4, "")


def test_top_prints_looks_where_there_is_no_terminal(taquba: Taquba) -> None:
    first, second = taquba.ok("top", "--json", "-n", "2", "--every", "50ms").lines
    assert [queue["queue"] for queue in first["queues"]] == ["mail", "reports"]
    assert first["queues"][0]["done_per_second"] is None
    assert second["queues"][0]["done_per_second"] == 0
    assert "(all)" in taquba.ok("top", "-n", "1").out


LOOKS = [
    ["stats"],
    ["queues"],
    ["inbox"],
    ["jobs", "list"],
    ["jobs", "show", "done"],
    ["jobs", "history", "dead-new"],
    ["dead", "list"],
    ["dead", "purge", "--all"],
    ["dead", "requeue", "-q", "mail"],
    ["kv", "get", "config/limit"],
    ["kv", "scan"],
    ["top", "-n", "1"],
]


def test_looking_writes_nothing(taquba: Taquba) -> None:
    before = files(taquba.store)
    for command in LOOKS:
        taquba.ok(*command)
    assert files(taquba.store) == before


def test_a_place_without_a_store(taquba: Taquba, tmp_path: Path) -> None:
    taquba.store = tmp_path / "nothing"
    for command in LOOKS:
        result = taquba(*command)
        assert (result.code, result.out) == (4, "")
        assert result.err == f"taquba: {taquba.store} holds no taquba store\n"
    assert not taquba.store.exists()
