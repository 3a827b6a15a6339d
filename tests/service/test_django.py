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
    OwnerUnreachable,
    PermanentFailure,
    Queue,
    QueueConfig,
    run_worker,
)
from taquba.integrations.django import TaqubaBackend, _handles
from taquba.integrations.django._running import TaskRunner, sweep
from taquba.integrations.django._tasks import (
    BaseTaskBackend,
    TaskResult,
    TaskResultDoesNotExist,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from tests.service import django_project as project
from tests.service.django_project import TaskResultMismatch
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
    config = QueueConfig(keep_done_jobs=5, retry_backoff_base=0, retry_jitter=0)
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


async def result_of(result: TaskResult[Any]) -> TaskResult[Any]:
    """The result as another process gets it."""
    return await task_backends["default"].aget_result(result.id)


async def test_the_result_of_a_task_is_there_in_every_state(backend: TaqubaBackend) -> None:
    assert backend.supports_get_result
    async with owner(backend) as queue:
        result = await project.add.aenqueue(1, second=2)
        ready = await result_of(result)
        assert (ready.status, ready.attempts, ready.started_at) == ("READY", 0, None)
        assert (ready.args, ready.kwargs, ready.task) == ([1], {"second": 2}, project.add)
        with pytest.raises(ValueError, match="not finished"):
            _ = ready.return_value
        claim = await queue.claim("default")
        assert claim is not None
        running_one = await result_of(result)
        assert (running_one.status, running_one.attempts) == ("RUNNING", 1)
        assert running_one.started_at == running_one.last_attempted_at == claim.claimed_at
        await queue.nack(claim, "interrupted")
        await work(queue, backend, result)
        ended = await result_of(result)
        assert (ended.status, ended.return_value, ended.errors) == ("SUCCESSFUL", 3, [])
        assert ended.enqueued_at is not None
        assert ended.finished_at is not None
        assert ended.enqueued_at <= (ended.started_at or ended.enqueued_at) <= ended.finished_at
        assert (await project.add.aget_result(result.id)).return_value == 3
        with pytest.raises(TaskResultMismatch):
            await project.keep.aget_result(result.id)
        await result.arefresh()
        assert result.return_value == 3


async def test_without_time_zones_times_are_local_ones(backend: TaqubaBackend) -> None:
    async with owner(backend) as queue:
        with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
            result = await project.add.aenqueue(1)
            await work(queue, backend, result)
            local = await result_of(result)
        aware = await result_of(result)
        for name in ("enqueued_at", "started_at", "last_attempted_at", "finished_at"):
            one, other = getattr(local, name), getattr(aware, name)
            assert one.tzinfo is None
            assert one - other.replace(tzinfo=None) == timedelta(hours=9)


async def test_a_task_that_failed_tells_the_errors_of_all_its_attempts(
    backend: TaqubaBackend,
) -> None:
    async with owner(backend) as queue:
        result = await project.fail.using(priority=3).aenqueue("no luck")
        await work(queue, backend, result)
        ended = await result_of(result)
        assert (ended.status, ended.attempts, ended.task.priority) == ("FAILED", 2, 3)
        assert [error.exception_class for error in ended.errors] == [ValueError] * 2
        assert all("no luck" in error.traceback for error in ended.errors)
        assert len({*ended.worker_ids}) == 1
        assert ended.worker_ids[0].startswith(socket.gethostname())
        assert ended.finished_at is not None
        await queue.requeue_dead(result.id)
        again = await result_of(result)
        assert (again.status, again.attempts, again.finished_at) == ("READY", 0, None)


async def test_a_failure_before_a_success_is_told_with_it(backend: TaqubaBackend) -> None:
    async with owner(backend) as queue:
        result = await project.fail_once.aenqueue()
        await work(queue, backend, result)
        ended = await result_of(result)
    assert (ended.status, ended.attempts, ended.return_value) == ("SUCCESSFUL", 2, "done")
    assert [error.exception_class for error in ended.errors] == [ValueError]


async def test_a_task_whose_processes_were_killed_has_failed(backend: TaqubaBackend) -> None:
    async with owner(backend) as queue:
        result = await project.add.aenqueue(1)
        claim = await queue.claim("default")
        assert claim is not None
        await queue.dead_letter(claim, "its process has ended")
        ended = await result_of(result)
    assert (ended.status, ended.attempts) == ("FAILED", 1)
    assert [error.traceback for error in ended.errors] == ["its process has ended"]
    assert issubclass(ended.errors[0].exception_class, Exception)


async def test_what_is_returned_comes_back_as_json_or_fails_the_task(
    backend: TaqubaBackend,
) -> None:
    values: list[Any] = [None, [1, {"a": 2.5}], "x" * 200_000, "x" * 100_000]
    async with owner(backend) as queue:
        kept = [await project.give_back.aenqueue(value) for value in values]
        odd = await project.give_an_object.aenqueue()
        large = await project.large_both.aenqueue("x" * 300_000)
        await work(queue, backend, *kept[:2], kept[3], large)
        results = [await result_of(one) for one in kept]
        assert [one.return_value for one in (*results[:2], results[3])] == [*values[:2], values[3]]
        assert (await result_of(large)).args == ["x" * 300_000]
        for one, why in ((results[2], "200002 bytes"), (await result_of(odd), "JSON values")):
            assert (one.status, one.attempts) == ("FAILED", 1)
            assert why in one.errors[0].traceback


async def test_results_are_unknown_once_they_are_kept_no_longer(backend: TaqubaBackend) -> None:
    async with owner(backend) as queue:
        result = await project.add.aenqueue(1)
        other = await queue.enqueue("default", b"not a task", delay=60)
        await work(queue, backend, result)
        await sweep(queue)
        assert (await result_of(result)).return_value == 1
        (entry,) = (await queue.kv_scan("django/expiry/")).entries
        await queue.kv_delete(entry.key)
        due = entry.key.replace(entry.key.split("/")[2], f"{1:014}")
        await queue.kv_put(due, b"")
        await sweep(queue)
        # It was stored anew meanwhile.
        assert (await result_of(result)).return_value == 1
        row = json.loads(await queue.kv_get(f"django/task/{result.id}") or b"")
        await queue.kv_put(f"django/task/{result.id}", json.dumps({**row, "until": 1}).encode())
        await queue.kv_put(due, b"")
        await asyncio.gather(sweep(queue), sweep(queue))
        assert (await queue.kv_scan("django/")).entries == []
        for unknown in (result.id, other.id, "nonsense", "\ud800", "01ARZ3NDEKTSV4RRFFQ69G5FAV"):
            with pytest.raises(TaskResultDoesNotExist):
                await backend.aget_result(unknown)


async def test_no_results_are_kept_where_none_are_wanted(tmp_path: Path) -> None:
    tasks = {
        "default": {
            "BACKEND": "taquba.integrations.django.TaqubaBackend",
            "QUEUES": ["default", "other"],
            "OPTIONS": {"url": str(tmp_path), "keep_results": 0},
        }
    }
    with override_settings(TASKS=tasks):
        backend = task_backends["default"]
        assert isinstance(backend, TaqubaBackend)
        assert not backend.supports_get_result
        async with owner(backend) as queue:
            result = await project.give_an_object.aenqueue()
            await work(queue, backend, result)
            assert (await queue.kv_scan("django/")).entries == []
            with pytest.raises(NotImplementedError):
                await backend.aget_result(result.id)


async def test_without_a_worker_tasks_are_enqueued_and_results_read_from_the_store(
    backend: TaqubaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_handles, "_OWNER_SECONDS", 0.2)
    # Nobody has made the store yet.
    results = await asyncio.gather(*(project.add.aenqueue(number) for number in range(8)))
    with pytest.raises(OwnerUnreachable):
        await result_of(results[0])
    async with owner(backend) as queue:
        await queue.ingest_now()
        await work(queue, backend, *results)
    assert [(await result_of(one)).return_value for one in results[:2]] == [0, 1]
    waits = await project.add.aenqueue(9)
    with pytest.raises(OwnerUnreachable):
        await result_of(waits)


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
        {"QUEUES": ["default"], "OPTIONS": {"url": "x", "keep_results": -1}},
        {"QUEUES": ["default"], "OPTIONS": {"url": "x", "keep_results": "1"}},
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


@contextmanager
def workers(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The worker command as a process of its own, and where it prints."""
    printed = folder / f"worker{len(list(folder.glob('worker*')))}"
    with printed.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *WORKER, *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "STORE": str(folder / "store"),
                "OUTBOX": str(folder / "outbox"),
                "PYTHONPATH": str(ROOT),
            },
            stdout=out,
        )
    try:
        yield process, printed
        if process.poll() is None:
            process.terminate()
            assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def says(printed: Path, role: str) -> bool:
    lines = printed.read_text().splitlines()
    return bool(lines) and f": {role}; this process" in lines[-1]


def post(site: str, number: int) -> dict[str, Any]:
    to = f"{number}@example.com"
    reply: dict[str, Any] = ask("POST", f"{site}/mails", data={"to": to, "text": "hello"})
    return reply


def post_all(site: str, count: int) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda number: post(site, number), range(count)))


def results(site: str, replies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of tasks, from whichever process of the site, when all have ended."""
    found: dict[str, dict[str, Any]] = {}

    def all_ended() -> bool:
        for reply in replies:
            if reply["id"] not in found:
                one = ask("GET", f"{site}/mails/{reply['id']}")
                if one["status"] not in ("READY", "RUNNING"):
                    found[reply["id"]] = one
        return len(found) == len(replies)

    until(all_ended)
    return list(found.values())


def test_a_site_of_many_processes_outlives_its_worker(
    tmp_path: Path, listener: socket.socket, site: str
) -> None:
    with running(SERVER, tmp_path, listener):
        # There is no store yet, and no worker.
        sent = post_all(site, 8)
        with workers(tmp_path) as (first, first_printed):
            until(lambda: says(first_printed, "owner"))
            with workers(tmp_path) as (_second, second_printed):
                until(lambda: says(second_printed, "worker"))
                sent += post_all(site, 40)
                ended = results(site, sent)
                assert {one["status"] for one in ended} == {"SUCCESSFUL"}
                # Each of the workers ran some of them.
                assert len({one["worker"] for one in ended}) == 2
                assert {one["file"] for one in ended} == {f"{reply['id']}.txt" for reply in sent}
                first.send_signal(signal.SIGKILL)
                first.wait()
                sent += post_all(site, 8)
                until(lambda: says(second_printed, "owner"))
                assert {one["status"] for one in results(site, sent)} == {"SUCCESSFUL"}
        # Without any worker, results are still there.
        assert results(site, sent[-1:])[0]["status"] == "SUCCESSFUL"
    assert outbox(tmp_path) == {reply["id"] for reply in sent}
    assert len({reply["pid"] for reply in sent}) == 2


def test_a_worker_of_several_processes(tmp_path: Path, listener: socket.socket, site: str) -> None:
    with (
        running(SERVER, tmp_path, listener),
        workers(tmp_path, "--processes", "2") as (_parent, printed),
    ):
        sent = post_all(site, 20)
        assert {one["status"] for one in results(site, sent)} == {"SUCCESSFUL"}
        until(lambda: {"owner", "worker"} <= {*printed.read_text().replace(";", "").split()})
    roles = [line.split()[1] for line in printed.read_text().splitlines()]
    assert len(set(roles)) == 2


def test_the_command_refuses_a_number_of_processes_that_cannot_be(backend: TaqubaBackend) -> None:
    with pytest.raises(CommandError, match="--processes must be at least 1"):
        call_command("taquba_worker", processes=0)
