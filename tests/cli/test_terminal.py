"""What a person sees: the program on a terminal of 80 columns."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import termios
import time
from pathlib import Path

import pytest

from taquba import EnqueueRequest, Queue
from tests.cli.support import PATIENCE, environment, start

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(
    *arguments: str, keys: bytes = b"", when: str = "", columns: int = 80, **variables: str
) -> tuple[int, str]:
    """Run on a pseudo-terminal; press `keys` when `when` has appeared. Gives code and output."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = start(
        *arguments,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment(**variables),
        # Ctrl-C reaches the child as it does in a shell: its session owns the terminal.
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(inside)
    output = b""
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:
                break  # Linux says EIO when the last process has closed its side.
            if not chunk:
                break
            output += chunk
            if keys and when.encode() in output:
                os.write(terminal, keys)
                keys = b""
        return child.wait(PATIENCE), output.decode()
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "list"],
        ["dead", "list"],
        ["jobs", "history", "dead-new"],
        ["kv", "scan"],
        ["queues"],
    ],
)
def test_tables_fit_80_columns(store: Path, arguments: list[str]) -> None:
    code, output = on_terminal(*arguments, "-s", str(store))
    assert code == 0
    lines = ESCAPES.sub("", output).split("\r\n")
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80
    assert "\x1b[31m" not in output, "control characters of the store reached the terminal"


def test_no_color_is_respected(store: Path) -> None:
    _, plain = on_terminal("nonsense", NO_COLOR="1")
    _, coloured = on_terminal("nonsense")
    assert "\x1b[1;31m" in coloured
    assert "31m" not in plain


@pytest.mark.parametrize(("keys", "code"), [(b"q", 0), (b"\x03", 130)])
def test_top_shows_the_queues_until_a_key(store: Path, keys: bytes, code: int) -> None:
    ended, output = on_terminal(
        "top", "--every", "100ms", "-s", str(store), keys=keys, when="reports"
    )
    assert ended == code
    shown = ESCAPES.sub("", output)
    assert "owner absent" in shown
    assert "Traceback" not in shown
    # The screen of before is back, and the cursor.
    assert output.rstrip().endswith("\x1b[?1049l")
    assert "\x1b[?25h" in output


def test_top_goes_on_after_a_look_that_failed(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def own(queues: int) -> None:
        """An owner that comes and goes, and leaves its rows in a file of the engine."""
        async with Queue.open(store) as queue:
            await queue.enqueue_batch(
                EnqueueRequest(f"{number:03}", os.urandom(500)) for number in range(queues)
            )

    asyncio.run(own(1))
    child = start("top", "--json", "--every", "200ms", "-s", str(store))
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        assert len(json.loads(child.stdout.readline())["queues"]) == 1
        # While the child stands still, what it will look for disappears.
        child.send_signal(signal.SIGSTOP)
        asyncio.run(own(300))
        for file in store.rglob("*.sst"):
            file.rename(f"{file}.gone")
        child.send_signal(signal.SIGCONT)
        assert "taquba: " in child.stderr.readline()
        for file in store.rglob("*.gone"):
            file.rename(file.with_suffix(""))
        while len(json.loads(child.stdout.readline())["queues"]) == 1:
            pass
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE) == 130
    finally:
        child.kill()
        child.communicate()
