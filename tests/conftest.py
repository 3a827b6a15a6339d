from __future__ import annotations

import os
import signal
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import blockbuster.blockbuster as blockbuster_module
import pytest
from blockbuster import BlockBusterFunction, BlockingError, blockbuster_ctx
from hypothesis import HealthCheck, settings

from taquba._objects import places
from tests.servers.faulty_s3 import FaultyGCS, FaultyS3
from tests.servers.stores import AzureServer, S3Server

LONG = os.environ.get("TAQUBA_LONG") == "1"

settings.register_profile(
    "ci",
    # The same examples on every run: a red build means the change is wrong, not the luck.
    derandomize=True,
    # Wall-clock limits say more about the machine than about the code.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=50,
    stateful_step_count=40,
    print_blob=True,
)
settings.register_profile(
    "long",
    # New examples on every run; failures are kept in .hypothesis and tried first the next time.
    derandomize=False,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=1_000,
    stateful_step_count=100,
    print_blob=True,
)
settings.load_profile("long" if LONG else "ci")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a run that a shell started in the background; the processes that tests interrupt would
    # inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if LONG:
        return
    skip = pytest.mark.skip(reason="a long run: set TAQUBA_LONG=1")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def no_place_has_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of tests get free ports, and so may get one where an earlier test's server worked."""
    monkeypatch.setattr(places, "_worked", set())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for that of a socket, which has about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="taquba-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """An S3-compatible store that can be told to misbehave, found through the environment."""
    with FaultyS3() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyGCS]:
    """The same for Google Cloud Storage."""
    with FaultyGCS() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def azure_server() -> Iterator[AzureServer]:
    if os.environ.get("TAQUBA_SKIP_AZURE"):
        pytest.skip("TAQUBA_SKIP_AZURE is set")
    if not AzureServer.installed():
        pytest.fail("Azurite is not installed: make azurite, or set TAQUBA_SKIP_AZURE=1")
    with AzureServer() as server:
        yield server


# Calls that wait for a disk too, but that blockbuster does not watch by itself.
UNWATCHED = ("os.fsync", "os.fdatasync", "os.open")

# Where taquba's code may block the loop: (file, functions, why).
ALLOWED = [
    (
        "taquba/_service/processes.py",
        {"tell"},
        "a child process is told two words in its life, which its pipe always has room for",
    ),
    (
        "taquba/_objects/location.py",
        {"_local"},
        "making a path absolute asks for the working directory, which is in the kernel's memory",
    ),
    (
        "taquba_cron/_expression.py",
        {"_zone_named"},
        "registering a schedule reads its time zone, a few KiB of the machine's, once a process",
    ),
    (
        "logging/__init__.py",
        {"emit"},
        "where log records are written is the application's choice, here pytest's",
    ),
    (
        "concurrent/futures/process.py",
        {"submit"},
        "a process pool starts its processes while the first call is submitted; which executor"
        " runs the handlers is the caller's choice",
    ),
    (
        "multiprocessing/resource_tracker.py",
        {"_check_alive", "_send"},
        "a pool's locks are garbage at some time: a few bytes into a pipe say so",
    ),
    (
        "pydantic/plugin/_loader.py",
        {"get_plugins"},
        "the first type of a process has pydantic look for its plugins, among what is installed",
    ),
]


@pytest.fixture(autouse=True)
def no_blocking_calls(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fail a test in which taquba, or a handler it runs, blocks the event loop.

    Only calls with a frame of taquba on the stack count: tests themselves may prepare files.
    A blocking call raises `BlockingError`, which a worker loop takes for a failing handler, so
    each one is also recorded and fails the test at its end.
    """
    if request.node.get_closest_marker("allow_blocking"):
        yield
        return

    caught: list[BlockingError] = []

    class RecordedBlockingError(BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            caught.append(self)

    monkeypatch.setattr(blockbuster_module, "BlockingError", RecordedBlockingError)
    with blockbuster_ctx("taquba") as watch:
        for name in UNWATCHED:
            function = BlockBusterFunction(None, name, scanned_modules="taquba")
            watch.functions[name] = function.activate()
        for function in watch.functions.values():
            for file, functions, _why in ALLOWED:
                function.can_block_in(file, functions)
        yield
    if caught:
        where = "".join(traceback.format_exception(caught[0]))
        pytest.fail(f"the event loop was blocked\n{where}", pytrace=False)
