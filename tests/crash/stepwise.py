"""One life of a process, again and again, killed by SIGKILL one step later each time."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Life = Callable[[Path, Callable[[str], None]], Awaitable[None]]
"""What a life does, given its folder and a function that notes what was acknowledged."""

Calls = Iterable[tuple[type, Iterable[str]]]
"""Classes, and those of their async methods that have a step before and after each call."""


class Steps:
    def __init__(self, fatal: int) -> None:
        self.left = fatal

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @functools.wraps(call)
        async def stepping(*args: P.args, **kwargs: P.kwargs) -> R:
            self.step()
            result = await call(*args, **kwargs)
            self.step()
            return result

        return stepping


def kill_at_every_step(root: Path, live: Life, calls: Calls) -> None:
    """Let life N work in the subfolder N and end at its N-th step, until one lives to its end.

    It forks, so it belongs in a process where no storage engine runs yet. What a life was told is
    in the file ``acknowledged`` of its folder.
    """
    for fatal in range(1, 1000):
        folder = root / str(fatal)
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            log = (folder / "acknowledged").open("w")
            steps = Steps(fatal)
            for owner, names in calls:
                for name in names:
                    setattr(owner, name, steps.around(getattr(owner, name)))
            asyncio.run(live(folder, functools.partial(print, file=log, flush=True)))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL, f"life {fatal} ended by itself: {status}"
    raise AssertionError("no life came to its end")
