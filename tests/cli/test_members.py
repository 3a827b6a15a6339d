"""`taquba worker` and `taquba run` take part in a service, in this process or in children."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taquba import SyncProducer
from tests.cli.support import Result, Taquba, finish, start
from tests.servers.stores import S3Server

pytestmark = pytest.mark.allow_blocking("a command has its event loop for itself")

HANDLERS = """
import os, time
from pathlib import Path
from taquba import Service, WorkerSpec

def meet(job, lease):
    # Each waits until there are two processes.
    Path(f"here-{os.getpid()}").touch()
    deadline = time.monotonic() + 60
    while len(list(Path().glob("here-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)

def hold(job, lease):
    print("holding", os.getpid(), flush=True)
    time.sleep(3600)

def never(job, lease):
    while True:
        time.sleep(1)

service = Service("store", [WorkerSpec("mail", meet)], fsync=False)
number = 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return tmp_path


@pytest.fixture
def taquba(folder: Path, capsys: pytest.CaptureFixture[str]) -> Taquba:
    taquba = Taquba(capsys, folder / "store")
    for _ in range(2):
        taquba.ok("enqueue", "mail", "x", "--create")
    return taquba


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    child = start(*arguments, cwd=folder)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def worker(handler: str, *more: str) -> tuple[str, ...]:
    return ("worker", f"handlers:{handler}", "-q", "mail", "-s", "store", *more)


def until_done(taquba: Taquba) -> None:
    # Each look is a command of its own.
    while True:
        counters = taquba.ok("stats", "-q", "mail", "--json").document
        if counters["pending"] + counters["claimed"] + counters["scheduled"] == 0:
            return


def stop(child: subprocess.Popen[str]) -> Result:
    child.send_signal(signal.SIGTERM)
    return finish(child)


@pytest.mark.parametrize(
    "command",
    [worker("meet", "--processes", "2"), ("run", "handlers:service", "--processes", "2")],
    ids=["worker", "run"],
)
def test_several_processes_run_the_jobs(
    folder: Path, taquba: Taquba, command: tuple[str, ...]
) -> None:
    with running(folder, *command) as child:
        until_done(taquba)
        result = stop(child)
    assert result.code == 0, result
    assert "Traceback" not in result.err
    pids = {path.name.removeprefix("here-") for path in folder.glob("here-*")}
    assert len(pids) == 2
    assert str(child.pid) not in pids


def test_workers_that_are_started_beside_each_other_share_the_jobs(
    folder: Path, taquba: Taquba
) -> None:
    with running(folder, *worker("meet")) as one, running(folder, *worker("meet")) as other:
        until_done(taquba)
        for child in (one, other):
            result = stop(child)
            assert result.code == 0, result
    assert len(list(folder.glob("here-*"))) == 2


def test_a_service_of_a_module_runs_until_it_is_told_to_stop(folder: Path, taquba: Taquba) -> None:
    (folder / "here-another").touch()
    with running(folder, "run", "handlers:service") as child:
        until_done(taquba)
        result = stop(child)
    assert result.code == 0, result
    assert (folder / f"here-{child.pid}").exists()


def test_a_run_until_empty_joins_the_worker_that_owns_the_store(
    folder: Path, taquba: Taquba
) -> None:
    with running(folder, *worker("hold")) as owner:
        lines_until_holding(owner)
        # The owner has one of the two jobs, and no place for the other.
        (folder / "here-another").touch()
        result = finish(start(*worker("meet", "--until-empty", "--json"), cwd=folder))
        assert result.code == 0, result
        counters = json.loads(result.out)
        assert (counters["done_here"], counters["pending"], counters["claimed"]) == (1, 0, 1)
        assert owner.poll() is None


def test_runs_until_empty_on_a_bucket_follow_each_other(
    folder: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment(s3_server.endpoint).items():
        monkeypatch.setenv(name, value)
    url = f"{s3_server.root}{folder}"
    (folder / "here-another").touch()
    command = ("worker", "handlers:meet", "-q", "mail", "-s", url, "--until-empty", "--json")
    result = finish(start(*command, "--create", cwd=folder))
    assert result.code == 0, result
    with SyncProducer.open(url) as producer:
        producer.enqueue("mail", b"x")
    result = finish(start(*command, cwd=folder))
    assert result.code == 0, result
    assert json.loads(result.out)["done_here"] == 1


def lines_until_holding(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    assert child.stdout.readline().startswith("holding")


def test_a_function_that_never_ends_is_given_up(folder: Path, taquba: Taquba) -> None:
    taquba.ok("enqueue", "stuck", "x", "--max-attempts", "1")
    with running(
        folder, "worker", "handlers:never", "-q", "stuck", "-s", "store",
        "--processes", "1", "--timeout", "200ms", "--kill",
    ) as child:  # fmt: skip
        while not taquba.ok("stats", "-q", "stuck", "--json").document["dead"]:
            assert child.poll() is None
        result = stop(child)
    assert result.code == 0, result
    # The log of the child has the form of its parent's.
    assert "INFO taquba" in result.err
    assert "does not end by its timeout: its process ends" in result.err


def test_what_is_not_a_service_is_refused(folder: Path) -> None:
    result = finish(start("run", "handlers:number", cwd=folder))
    assert (result.code, result.out) == (2, "")
    assert "handlers:number is not a Service, but 7" in result.err


def test_until_empty_is_about_one_process(folder: Path) -> None:
    result = finish(start(*worker("meet", "--until-empty", "--processes", "2"), cwd=folder))
    assert result.code == 2
    assert "start the command several times" in result.err


def test_a_function_without_a_process_of_its_own_is_not_killed(folder: Path) -> None:
    result = finish(start(*worker("never", "--timeout", "1", "--kill"), cwd=folder))
    assert result.code == 2
    assert "set processes" in result.err
