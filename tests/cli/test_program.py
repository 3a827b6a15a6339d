"""The program as a whole: started, interrupted, piped, mistyped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import obstore
import pytest

from taquba._cli.app import run
from tests.cli.support import PATIENCE, Taquba, environment, finish, make_store, start
from tests.servers.stores import S3Server

allow_blocking = pytest.mark.allow_blocking("a command has its event loop for itself")

HANDLERS = """
import asyncio

async def handle(job, lease):
    print("start", job.id, flush=True)
    await asyncio.sleep(float(job.payload))
    print("end", job.id, flush=True)

class Tools:
    class deeper:
        handle = staticmethod(handle)

broken = 1 / 1
"""


def lines_until(child: subprocess.Popen[str], wanted: str) -> list[str]:
    """What the child writes up to the wanted line."""
    assert child.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1] != wanted:
        line = child.stdout.readline()
        assert line, f"the child ended without {wanted!r}, after {lines}"
        lines.append(line.strip())
    return lines


# -- worker -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@allow_blocking
def test_a_worker_drains_on_a_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: signal.Signals
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    taquba = Taquba(capsys, tmp_path / "store")
    taquba.ok("enqueue", "mail", "0", "--id", "quick", "--create")
    taquba.ok("enqueue", "mail", "1", "--id", "slow")
    taquba.ok("enqueue", "mail", "0", "--id", "third", "--delay", "1h")
    child = start(
        "worker", "handlers:Tools.deeper.handle", "-q", "mail", "-s", str(taquba.store), "--json",
        cwd=tmp_path,
    )  # fmt: skip
    lines_until(child, "start slow")
    child.send_signal(end)
    result = finish(child)
    assert result.code == 0, result
    printed, _, document = result.out.partition("{")
    assert printed.splitlines() == ["end slow"]
    assert json.loads("{" + document) == {
        "queue": "mail", "done_here": 2,
        "pending": 0, "scheduled": 1, "claimed": 0, "done": 2, "dead": 0,
    }  # fmt: skip
    assert "running the jobs of mail with handlers:Tools.deeper.handle" in result.err
    assert "Traceback" not in result.err


@allow_blocking
def test_a_worker_leaves_what_other_queues_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    taquba = Taquba(capsys, tmp_path / "store")
    make_store(taquba.store)
    taquba.ok("enqueue", "new", "0", "--id", "quick")
    child = start("worker", "handlers:handle", "-q", "new", "-s", str(taquba.store), cwd=tmp_path)
    lines_until(child, "end quick")
    child.send_signal(signal.SIGINT)
    assert finish(child).code == 0
    found = {job["id"] for job in taquba.all_jobs()}
    assert {"done", "dead-old"} <= found
    assert "quick" not in found


@allow_blocking
def test_a_second_signal_gives_the_job_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    taquba = Taquba(capsys, tmp_path / "store")
    taquba.ok("enqueue", "mail", "3600", "--id", "endless", "--create")
    child = start("worker", "handlers:handle", "-q", "mail", "-s", str(taquba.store), cwd=tmp_path)
    lines_until(child, "start endless")
    child.send_signal(signal.SIGINT)
    assert child.stderr is not None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)
    child.send_signal(signal.SIGINT)
    assert finish(child).code == 0
    found = taquba.ok("jobs", "show", "endless", "--json").document
    assert (found["status"], found["attempts"]) == ("pending", 0)


@pytest.mark.parametrize(
    ("handler", "code", "message"),
    [
        ("handlers", 2, "'handlers' does not name a handler: write module:handler"),
        (":handle", 2, "does not name a handler"),
        ("handlers:nope", 2, "handlers has no 'nope'"),
        ("handlerz:handle", 2, "no module 'handlerz' in "),
        ("handlers:broken", 2, "a handler must be a function"),
        ("needs_more:handle", 1, "importing needs_more failed: No module named 'not_installed'"),
        ("wrong:handle", 1, "importing wrong failed: SyntaxError"),
        ("raises:handle", 1, "importing raises failed: ZeroDivisionError: division by zero"),
    ],
)
@allow_blocking
def test_a_handler_that_cannot_be_found_is_named(
    tmp_path: Path,
    taquba: Taquba,
    monkeypatch: pytest.MonkeyPatch,
    handler: str,
    code: int,
    message: str,
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "needs_more.py").write_text("import not_installed\n")
    (tmp_path / "wrong.py").write_text("def handle(:\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("handlers", None)
    result = taquba("worker", handler, "-q", "mail")
    assert result.code == code, result
    assert message in result.err
    assert "Traceback" not in result.err
    assert taquba.ok("stats", "-q", "mail", "--json").document["pending"] == 1


# -- pipes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["jobs", "list", "--json"], ["stats"]])
def test_a_reader_that_goes_away_is_no_error(store: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    child = start(*arguments, "-s", str(store), stdout=writing)
    os.close(writing)
    result = finish(child)
    assert (result.code, result.err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is full")
@pytest.mark.parametrize("arguments", [["jobs", "list"], ["kv", "scan", "--json"], ["stats"]])
def test_output_that_cannot_be_written_is_an_error_without_a_traceback(
    store: Path, arguments: list[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        result = finish(start(*arguments, "-s", str(store), stdout=full))
    why = "the output cannot be written: No space left on device"
    assert (result.code, result.err) == (1, f"taquba: {why}\n")


def test_a_command_needs_no_output(store: Path) -> None:
    command = f'"{sys.executable}" -m taquba kv put k v -s "{store}" >&-'
    done = subprocess.run(
        command, shell=True, stderr=subprocess.PIPE, timeout=PATIENCE, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_bytes_go_through_pipes_as_they_are(store: Path) -> None:
    content = bytes(range(256))
    for arguments in (["kv", "put", "k", "-"], ["kv", "get", "k"]):
        done = subprocess.run(
            [sys.executable, "-m", "taquba", *arguments, "-s", str(store)],
            input=content,
            capture_output=True,
            timeout=PATIENCE,
            check=True,
            env=environment(),
        )
    assert done.stdout == content


def test_text_that_the_output_cannot_hold_is_escaped(store: Path) -> None:
    variables = environment(PYTHONIOENCODING="latin-1", TAQUBA_STORE=str(store))

    def run_latin(*arguments: str) -> str:
        result = finish(start(*arguments, env=variables, encoding="latin-1"))
        assert result.code == 0, result
        return result.out

    run_latin("enqueue", "✓", "ü", "--id", "odd")
    shown = run_latin("jobs", "show", "odd")
    assert "\\u2713" in shown
    assert "ü" in shown
    document = json.loads(run_latin("jobs", "show", "odd", "--json"))
    assert (document["queue"], document["payload"]) == ("✓", "ü")


# -- usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["stast"], "taquba: No such command 'stast'. Did you mean 'stats'?\nsee taquba --help\n"),
        (["stats", "--jsn", "-s", "x"], "taquba: No such option: --jsn"),
        (["jobs", "show", "-s", "x"], "taquba: Missing argument 'JOB_ID'.\n"),
        (["stats"], "taquba: Missing option '--store'"),
        (["stats", "-s", "s4://bucket/x"], "taquba: 's4://bucket/x' has an unknown scheme; use "),
        (["stats", "-s", "s3://bucket"], "taquba: 's3://bucket' needs a bucket and a prefix"),
        (["jobs", "show", "a b", "-s", "{store}"], "taquba: a job id must be 1 to 128 characters"),
        (["jobs", "list", "--status", "gone", "-s", "x"], "taquba: Invalid value for '--status'"),
    ],
)
@allow_blocking
def test_a_mistake_is_explained_in_a_line_or_two(
    store: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: str,
) -> None:
    monkeypatch.delenv("TAQUBA_STORE", raising=False)
    assert run([argument.format(store=store) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(error)
    assert captured.err.count("\n") <= 2


@allow_blocking
def test_a_store_that_cannot_be_read_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["enqueue", "q", "x", "--create", "-s", str(tmp_path / "file")]) == 1
    assert "cannot create the store folder" in capsys.readouterr().err


@allow_blocking
def test_debug_shows_where_an_error_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["--debug", "stats", "-s", str(tmp_path / "none")]) == 4
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("TAQUBA_DEBUG", "1")
    assert run(["stats", "-s", "htp://x"]) == 2
    assert "Traceback" in capsys.readouterr().err


@allow_blocking
def test_the_store_may_come_from_the_environment(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAQUBA_STORE", str(store))
    assert run(["queues"]) == 0
    assert "reports" in capsys.readouterr().out


COMMANDS = [
    "stats", "queues", "jobs list", "jobs show", "jobs history", "dead list", "dead requeue",
    "dead purge", "enqueue", "cancel", "wake", "kv get", "kv scan", "kv put", "kv delete", "top",
    "worker", "run", "bench", "doctor",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: taquba {command}" in shown
    assert f"Examples:\n    taquba {command}" in shown
    # It prints nothing.
    assert command == "run" or "--json" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ""
    for group in ([], ["jobs"], ["dead"], ["kv"]):
        assert run(group) == 0
        shown += capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command.split()[-1]} " in shown
    assert "Exit codes" in shown


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("taquba 0.")


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(package: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; import taquba.__main__ as m; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "stats"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"taquba: the command line needs {package}, which is not installed: "
        "pip install 'taquba[cli]'\n"
    )


# -- bench --------------------------------------------------------------------------------------


@allow_blocking
def test_bench_measures_on_a_store_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text("")
    assert run(["bench", str(tmp_path), "--jobs", "100", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["jobs"] for result in results] == [100, 100, 50]
    assert all(result["per_second"] > 0 for result in results[:2])
    assert results[2]["p99_ms"] >= results[2]["p50_ms"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@allow_blocking
def test_bench_in_memory_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["bench", "memory://", "--jobs", "100"]) == 0
    assert "enqueue, 50 producers" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@allow_blocking
def test_bench_does_not_touch_a_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(store.rglob("*"))
    assert run(["bench", str(store)]) == 3
    assert "holds a taquba store, which bench must not touch" in capsys.readouterr().err
    assert sorted(store.rglob("*")) == before


@allow_blocking
def test_bench_in_a_bucket_leaves_no_object(
    s3_server: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment(s3_server.endpoint).items():
        monkeypatch.setenv(name, value)
    url = f"{s3_server.root}/cli-bench"
    assert run(["bench", url, "--jobs", "100", "--json"]) == 0, capsys.readouterr()
    capsys.readouterr()
    bucket = obstore.store.from_url(url)
    assert [found for page in bucket.list() for found in page] == []


@allow_blocking
def test_changes_in_a_bucket(
    s3_server: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment(s3_server.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TAQUBA_STORE", f"{s3_server.root}/cli-changes")
    assert run(["enqueue", "mail", "x", "--id", "a", "--create"]) == 0
    # It was closed, so nothing has to be taken over.
    assert run(["cancel", "a"]) == 0
    assert run(["stats", "--json"]) == 0
    assert '"owner": "absent"' in capsys.readouterr().out


# -- doctor -------------------------------------------------------------------------------------


@allow_blocking
def test_doctor_says_what_it_found(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["contents"], found["owner"]) == (True, "store", "absent")
    assert all(check["ok"] for check in found["checks"])
    assert any(check["round_trip_ms"] for check in found["checks"])
    assert run(["doctor", str(store)]) == 0
    shown = capsys.readouterr().out
    assert "conditional create" in shown
    assert shown.rstrip().endswith("yes")


@allow_blocking
def test_doctor_fails_where_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["doctor", str(tmp_path / "file"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    [wrong] = [check for check in found["checks"] if not check["ok"]]
    assert run(["doctor", str(tmp_path / "file")]) == 1
    shown = capsys.readouterr().out
    assert f"to do: {wrong['name']}" in shown
    assert wrong["remedy"] in shown
