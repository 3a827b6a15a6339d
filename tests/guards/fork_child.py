"""Forks while a queue is open; what the forked child may and may not do. Prints one line each.

    python fork_child.py STORE HOW

Run as a process of its own: pytest's process is no place to fork.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import selectors
import sys
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from taquba import Claim, ForkedError, JobRecord, LeaseHandle, Queue, run_worker
from tests.guards import calls

PATIENCE = 5.0
"""Seconds that a forked child may take, exit included."""


refused: list[str] = []
"""Filled by the child when it was refused everything it tried."""


async def nothing(job: JobRecord, lease: LeaseHandle) -> None:
    pass


def must_be_refused(call: Coroutine[Any, Any, object]) -> None:
    """Run a call in an event loop of the child, and expect `ForkedError` at once."""
    started = time.monotonic()
    with pytest.raises(ForkedError), asyncio.Runner(loop_factory=fork_safe_loop) as runner:
        runner.run(call)
    assert time.monotonic() - started < 1


def in_child(queue: Queue, claim: Claim) -> None:
    """Every way to touch the inherited queue, each refused."""
    for method in calls.public_methods():
        must_be_refused(calls.result(queue, method, claim))
    must_be_refused(queue.close())
    must_be_refused(run_worker(queue, "q", nothing))
    for method in ("config", "next_job_id"):
        with pytest.raises(ForkedError, match="spawn"):
            calls.call(queue, method, claim)
    refused.append("everything")


def fork_plainly(queue: Queue, claim: Claim) -> int:
    pid = os.fork()
    if pid:
        return wait_for(pid)
    # The child is out of the loop that it was forked in.
    asyncio._set_running_loop(None)
    in_child(queue, claim)
    # Not os._exit: everything that was inherited is unwound, down to the interpreter's end.
    sys.exit(0)


def wait_for(pid: int) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1000


def fork_by_multiprocessing(queue: Queue, claim: Claim) -> int:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=in_forked_process, args=(queue, claim))
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        return -1000
    return process.exitcode or 0


def in_forked_process(queue: Queue, claim: Claim) -> None:
    asyncio._set_running_loop(None)
    in_child(queue, claim)


async def fork_in_coroutine(queue: Queue) -> int:
    """The child goes on in the coroutine that forked, on the loop it inherited."""
    pid = os.fork()
    if pid:
        return await asyncio.to_thread(wait_for, pid)
    code = 1
    try:
        await queue.enqueue("q", b"from the child")
    except ForkedError:
        code = 0
    finally:
        os._exit(code)


async def main(store: str, how: str) -> None:
    async with Queue.open(store) as queue:
        await queue.enqueue("q", b"x")
        claim = await queue.claim("q")
        assert claim is not None
        if how == "fork":
            code = fork_plainly(queue, claim)
        elif how == "multiprocessing":
            code = fork_by_multiprocessing(queue, claim)
        else:
            code = await fork_in_coroutine(queue)
        print("child", code, flush=True)
        # The parent works on.
        await queue.enqueue("q", b"after the fork")
        await queue.ack(claim)
        after = await queue.claim("q")
        assert after is not None
        await queue.ack(after)
        print("parent", (await queue.stats("q")).done, flush=True)


def fork_safe_loop() -> asyncio.AbstractEventLoop:
    # An epoll object is shared with a forked child, whose loop would take its parent's
    # descriptors out of it when it closes. The list of a select call is a copy.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    parent = os.getpid()
    try:
        with asyncio.Runner(loop_factory=fork_safe_loop) as runner:
            runner.run(main(sys.argv[1], sys.argv[2]))
    except ForkedError:
        # A forked child that leaves the block of its parent's queue.
        assert os.getpid() != parent
        assert refused, "the child was refused before it was done"
