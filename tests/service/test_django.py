"""A backend of Django's tasks, by itself and in the project of the examples."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import override_settings

from taquba import (
    InvalidArgument,
    InvalidArgumentType,
    JobStatus,
    PermanentFailure,
    Queue,
    QueueConfig,
    run_worker,
)
from taquba.integrations.django import TaqubaBackend
from taquba.integrations.django._running import TaskRunner
from taquba.integrations.django._tasks import (
    BaseTaskBackend,
    TaskResult,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from tests.service import django_project as project
from tests.service.web import PATIENCE, ROOT, ask, outbox, running, until

SERVER = ["gunicorn", "examples.web_django.wsgi", "--workers", "2", "--preload"]
SERVER += ["--bind", "fd://{fd}"]
WORKER = ["examples.web_django.manage", "taquba_worker"]


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[TaqubaBackend]:
    tasks = {
        "default": {
            "BACKEND": "taquba.integrations.django.TaqubaBackend",
            "QUEUES": ["default", "other"],
            "OPTIONS": {"url": str(tmp_path), "max_attempts": 2},
        }
    }
    project.calls.clear()
    with override_settings(TASKS=tasks):
        backend = task_backends["default"]
        assert isinstance(backend, TaqubaBackend)
        yield backend


@contextmanager
def signals() -> Iterator[list[tuple[str, Any]]]:
    """The signals that are sent meanwhile."""
    seen: list[tuple[str, Any]] = []
    receivers = [
        (task_enqueued, lambda task_result, **_: seen.append(("enqueued", task_result))),
        (task_started, lambda task_result, **_: seen.append(("started", task_result))),
        (task_finished, lambda task_result, **_: seen.append(("finished", task_result))),
    ]
    for one, receiver in receivers:
        one.connect(receiver)
    try:
        yield seen
    finally:
        for one, receiver in receivers:
            one.disconnect(receiver)


def owner(backend: TaqubaBackend) -> Any:
    config = QueueConfig(keep_done_jobs=60, retry_backoff_base=0)
    return Queue.open(backend.url, inbox=True, producer_socket=True, default_config=config)


async def work(queue: Queue, backend: TaqubaBackend, *results: TaskResult[Any]) -> None:
    """Run what there is, until these have ended."""
    enough = asyncio.Event()
    workers = [
        asyncio.create_task(run_worker(queue, name, TaskRunner(backend), shutdown=enough))
        for name in ("default", "other")
    ]
    for result in results:
        assert (await queue.wait_for_completion(result.id, PATIENCE)).completed
    enough.set()
    await asyncio.gather(*workers)


async def test_tasks_are_run_with_their_arguments(backend: TaqubaBackend) -> None:
    async with owner(backend) as queue:
        first = await asyncio.to_thread(project.add.enqueue, 1, second=2)
        second = await project.add_slowly.aenqueue(5)
        third = await project.which.aenqueue()
        fourth = await project.add_later.aenqueue(7)
        await work(queue, backend, first, second, third, fourth)
    assert sorted(map(str, project.calls)) == sorted(map(str, [3, 5, 7, (third.id, 1)]))


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1: 2},
        [{"a": Number.ONE}],
        "\ud800",
        1.5,
        float("nan"),
        -0.0,
        2**70,
        None,
        {"a": []},
    ],
)
async def test_arguments_reach_a_task_as_they_are_or_are_refused(
    backend: TaqubaBackend, value: Any
) -> None:
    kept = not isinstance(value, tuple) and repr(value) not in (
        "{1: 2}",
        "[{'a': <Number.ONE: 1>}]",
    )
    async with owner(backend) as queue:
        if kept:
            result = await project.keep.aenqueue(value)
            await work(queue, backend, result)
            assert list(map(repr, project.calls)) == [repr(value)]
            return
        for call in (
            lambda: project.keep.enqueue(value),
            lambda: project.keep.enqueue(value=value),
        ):
            with pytest.raises(
                InvalidArgument, match=r"argument 'value' of task 'keep'.*pass JSON values"
            ):
                await asyncio.to_thread(call)
        assert (await queue.stats("default")).pending == 0


async def test_an_argument_that_json_cannot_hold_is_refused(backend: TaqubaBackend) -> None:
    with pytest.raises(InvalidArgumentType, match="argument 'value' of task 'keep', a datetime"):
        await project.keep.aenqueue(datetime.now(UTC))


async def test_signals_tell_of_them(backend: TaqubaBackend) -> None:
    with signals() as seen:
        async with owner(backend) as queue:
            result = await project.fail.aenqueue("no luck")
            assert (result.status, result.errors) == ("READY", [])
            await work(queue, backend, result)
            job = await queue.get_job(result.id)
            assert job is not None
            assert (job.status, job.attempts) == (JobStatus.DEAD, 2)
    assert [kind for kind, _ in seen] == ["enqueued", "started", "started", "finished"]
    assert {one.id for _, one in seen} == {result.id}
    ended = seen[-1][1]
    assert (ended.status, ended.attempts) == ("FAILED", 2)
    assert ended.errors[0].exception_class is ValueError
    assert "no luck" in ended.errors[0].traceback


async def test_priority_and_time_are_the_queues(backend: TaqubaBackend) -> None:
    async with owner(backend) as queue:
        moment = datetime.now(UTC) + timedelta(hours=1)
        later = await project.add.using(run_after=moment).aenqueue(1)
        high = await project.add.using(priority=100).aenqueue(2)
        low = await project.add.using(priority=-100).aenqueue(3)
        jobs = [await queue.get_job(one.id) for one in (later, high, low)]
        assert [job and job.status for job in jobs] == ["scheduled", "pending", "pending"]
        assert [job and job.priority for job in jobs] == [1000, 900, 1100]
        assert jobs[0] is not None
        assert jobs[0].run_at is not None
        assert abs(jobs[0].run_at - moment) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"nonsense", PermanentFailure),
        (b'{"task": "os.getcwd", "args": [], "kwargs": {}}', PermanentFailure),
        # A newer version may know it: it is tried again.
        (b'{"task": "tests.service.nowhere.add", "args": [], "kwargs": {}}', ImportError),
    ],
)
async def test_what_is_no_task_is_not_run(
    backend: TaqubaBackend, payload: bytes, error: type[Exception]
) -> None:
    async with Queue.open("memory://") as queue:
        await queue.enqueue("default", payload)
        claim = await queue.claim("default")
        assert claim is not None
        lease: Any = None
        with pytest.raises(error):
            await asyncio.to_thread(TaskRunner(backend), claim.job, lease)


@pytest.mark.parametrize(
    ("module", "imported"),
    [("trap", False), ("app.other", False), ("app.tasks", True), ("app.tasks.deep", True)],
)
@pytest.mark.allow_blocking("importing reads files")
async def test_a_job_makes_a_worker_import_only_where_tasks_are(
    backend: TaqubaBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    imported: bool,
) -> None:
    (tmp_path / "app" / "tasks").mkdir(parents=True)
    for name in ("trap", "app/__init__", "app/other", "app/tasks/__init__", "app/tasks/deep"):
        (tmp_path / f"{name}.py").write_text("it = 5")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    lease: Any = None
    try:
        with override_settings(INSTALLED_APPS=["app"]):
            async with Queue.open("memory://") as queue:
                await queue.enqueue(
                    "default",
                    json.dumps({"task": f"{module}.it", "args": [], "kwargs": {}}).encode(),
                )
                claim = await queue.claim("default")
                assert claim is not None
                with pytest.raises(PermanentFailure if imported else ImportError):
                    await asyncio.to_thread(TaskRunner(backend), claim.job, lease)
        assert (module in sys.modules) is imported
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("app", "trap"):
                del sys.modules[name]


@pytest.mark.parametrize(
    "params",
    [
        {"QUEUES": ["default"]},
        {"QUEUES": ["default"], "OPTIONS": {"url": "x", "bogus": 1}},
        {"QUEUES": [], "OPTIONS": {"url": "x"}},
    ],
)
def test_settings_that_cannot_work_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"TASKS\['default'\]"):
        TaqubaBackend("default", params)


def test_the_command_refuses_another_backend() -> None:
    backends = BaseTaskBackend.__module__.removesuffix(".base")
    other = {"default": {"BACKEND": f"{backends}.dummy.DummyBackend"}}
    with override_settings(TASKS=other), pytest.raises(CommandError, match="not a TaqubaBackend"):
        call_command("taquba_worker")


def test_a_site_of_many_processes_outlives_its_worker(
    tmp_path: Path, listener: socket.socket, site: str
) -> None:
    def post(number: int) -> tuple[str, int]:
        reply = ask("POST", f"{site}/mails", data={"to": f"{number}@example.com", "text": "hello"})
        return reply["id"], reply["pid"]

    def post_mails() -> set[str]:
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(post, range(20)))
        pids.update(pid for _, pid in replies)
        return {mail for mail, _ in replies}

    pids: set[int] = set()
    first = subprocess.Popen(
        [sys.executable, "-m", *WORKER],
        cwd=ROOT,
        env={
            **os.environ,
            "STORE": str(tmp_path / "store"),
            "OUTBOX": str(tmp_path / "outbox"),
            "PYTHONPATH": str(ROOT),
        },
    )
    try:
        until(lambda: (tmp_path / "store-inbox" / "inbox.json").exists())
        with running(SERVER, tmp_path, listener), running(WORKER, tmp_path, listener):
            sent = post_mails()
            until(lambda: sent <= outbox(tmp_path))
            first.send_signal(signal.SIGKILL)
            first.wait()
            sent |= post_mails()
            until(lambda: sent == outbox(tmp_path))
    finally:
        first.kill()
        first.wait()
    assert len(pids) == 2
