"""The pytest plugin, as a user's own test suite sees it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from taquba import Queue, QueueClosed, QueueConfig
from taquba.testing import MockClock
from tests.queue.support import OpenQueue

SUITE = textwrap.dedent(
    """
    import pytest
    from taquba import QueueConfig
    from taquba.testing import drain

    MARK

    async def test_first(queue, mock_clock):
        await queue.enqueue("q", b"", delay=60)
        await mock_clock.advance(60)
        async def handle(job, lease): ...
        assert await drain(queue, "q", handle) == 1

    async def test_second_is_fresh(queue):
        assert await queue.list_queues() == []

    async def test_options(open_queue, mock_clock):
        queue = await open_queue(default_config=QueueConfig(max_attempts=7))
        result = await queue.enqueue("q", b"")
        job = await queue.get_job(result.id)
        assert job.max_attempts == 7
        assert job.enqueued_at == mock_clock.now()
    """
)


def run_suite(folder: Path, mark: str, *options: str) -> str:
    (folder / "test_mine.py").write_text(SUITE.replace("MARK", mark))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-c", "/dev/null", *options, "."],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("", ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")),
        (
            "pytestmark = pytest.mark.asyncio",
            ("-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"),
        ),
    ],
    ids=["pytest-asyncio auto", "pytest-asyncio strict"],
)
def test_the_fixtures_in_a_suite_of_its_own(
    tmp_path: Path, mark: str, options: tuple[str, ...]
) -> None:
    output = run_suite(tmp_path, mark, *options)
    assert "3 passed" in output, output


def test_the_fixtures_with_anyios_plugin_alone(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(
            """
            import sys
            import pytest
            # As if pytest-asyncio were not installed.
            sys.modules["pytest_asyncio"] = None

            @pytest.fixture
            def anyio_backend():
                return "asyncio"
            """
        )
    )
    output = run_suite(
        tmp_path,
        "pytestmark = pytest.mark.anyio",
        "-p",
        "no:asyncio",
        "-p",
        "no:taquba",
        "-p",
        "taquba.testing._plugin",
    )
    assert "3 passed" in output, output


def test_the_plugin_is_registered() -> None:
    (entry,) = (
        entry
        for entry in importlib.metadata.entry_points(group="pytest11")
        if entry.name == "taquba"
    )
    assert entry.value == "taquba.testing._plugin"


async def test_queue_is_on_the_mock_clock(queue: Queue, mock_clock: MockClock) -> None:
    result = await queue.enqueue("q", b"")
    job = await queue.get_job(result.id)
    assert job is not None
    assert job.enqueued_at == mock_clock.now()


async def test_open_queue_opens_any_number_with_any_options(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    own = MockClock()
    one = await open_queue()
    other = await open_queue(clock=own, default_config=QueueConfig(max_attempts=1))
    await mock_clock.advance(60)
    for queue, clock in ((one, mock_clock), (other, own)):
        job = await queue.get_job((await queue.enqueue("q", b"")).id)
        assert job is not None
        assert job.enqueued_at == clock.now()
    # Closing early is no harm: the fixture closes again.
    await one.close()
    with pytest.raises(QueueClosed):
        await one.stats("q")


async def test_open_queue_opens_folders(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = await open_queue(str(tmp_path / "store"))
    await queue.enqueue("q", b"")
    assert (await queue.stats("q")).pending == 1
