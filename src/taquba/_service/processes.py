"""Child processes of a service, or of the command line: what dies is started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import anyio.to_thread

from taquba._model.describing import describe
from taquba._model.own_tasks import was_cancelled
from taquba._service.child import INTERRUPT, STOP, Logging, Start, Work, run_child
from taquba._worker.overrun import OVERRAN
from taquba._worker.pools import children_spared
from taquba._worker.shutdown import Shutdown

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

_log: Final = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
_SOUND_SECONDS: Final = 60.0
"""After a process that lived for this long, the next one is started without a longer pause."""

_DRAINED_SECONDS: Final = 15.0
"""What a process may take at its end beyond its `drain_timeout`: to give its jobs back, and leave.
"""

_INTERRUPTED_SECONDS: Final = 8.0
"""How long a process may take whose handlers were cancelled."""

_LOOK_SECONDS: Final = 0.5
"""How often it is looked whether a process lives: one that it forked may hide its end."""

_END_SECONDS: Final = 0.01
_UNKNOWN_SECONDS: Final = 5.0


class Program(NamedTuple):
    """What child processes run.

    Attributes:
        name: What it is, for the log.
        work: What each of them does, packed.
        processes: How many there are.
    """

    name: str
    work: bytes
    processes: int

    @classmethod
    def pack(cls, name: str, work: Work, processes: int) -> Program:
        """A program; `work` must be known to be sendable."""
        return cls(name, pickle.dumps(work), processes)


class Processes:
    """Child processes, which are started again when they die.

    They are new interpreters, and no forks: nothing of this process is in them. They ignore
    Ctrl-C, which a terminal sends to them as well, and end with this process, however that ends.

    Args:
        programs: What they run.
        drain_seconds: How long their handlers get at the end; None waits for them.
    """

    def __init__(self, programs: Iterable[Program], drain_seconds: float | None) -> None:
        self._programs = tuple(programs)
        self._drain_seconds = drain_seconds
        self._children: set[Child] = set()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    @asynccontextmanager
    async def running(self, stop: Shutdown) -> AsyncGenerator[None]:
        """Have them run until `stop` is set, or the block ends; then wait until they have ended."""
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        relay = asyncio.create_task(self._relay(stop), name="taquba-processes")
        keeping = [
            asyncio.create_task(self._keep(program), name=f"taquba-process-{number}")
            for program in self._programs
            for number in range(program.processes)
        ]
        try:
            yield
        except asyncio.CancelledError:
            self._hurry.set()
            raise
        finally:
            relay.cancel()
            self._stop.set()
            if keeping:
                await self._end_all(keeping)

    def interrupt(self) -> None:
        """Have them cancel their handlers, and end."""
        self._hurry.set()

    async def _relay(self, stop: Shutdown) -> None:
        await stop.wait()
        self._stop.set()

    async def _end_all(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(keeping)
        except asyncio.CancelledError:
            self._hurry.set()
            with anyio.CancelScope(shield=True):
                await asyncio.wait(keeping)
            raise
        finally:
            for task in keeping:
                task.cancel()
            for child in self._children:
                child.kill()
        for task in keeping:
            if task.cancelled():
                raise was_cancelled(task)
            task.result()

    async def _keep(self, program: Program) -> None:
        """Have one process run, and start another one whenever it dies."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while not self._stop.is_set():
            begun = loop.time()
            try:
                child = await anyio.to_thread.run_sync(self._start, program)
            except Exception as error:
                pause = _longer(pause, 0)
                _log.error(
                    "a process of %s cannot be started, which is tried again in %.1f s: %s",
                    program.name,
                    pause,
                    describe(error),
                )
            else:
                ended = asyncio.create_task(child.wait())
                try:
                    await _first(ended, self._stop)
                    if not ended.done():
                        await self._end(child, ended, program)
                        return
                except asyncio.CancelledError:
                    child.kill()
                    raise
                finally:
                    ended.cancel()
                    self._children.discard(child)
                code = child.code
                lived = loop.time() - begun
                pause = _FIRST_PAUSE if code == OVERRAN else _longer(pause, lived)
                _log.log(
                    logging.INFO if code == 0 else logging.WARNING,
                    "process %d of %s has ended after %.1f s: %s; another one is started in %.1f s",
                    child.pid,
                    program.name,
                    lived,
                    _ending(code),
                    pause,
                )
                child.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    def _start(self, program: Program) -> Child:
        """Start a process; in a thread."""
        child = Child.start(program, self._drain_seconds)
        self._children.add(child)
        return child

    async def _end(self, child: Child, ended: asyncio.Task[None], program: Program) -> None:
        """Let a process finish its jobs; or else cancel them, and at last kill it."""
        child.tell(STOP)
        limit = None if self._drain_seconds is None else self._drain_seconds + _DRAINED_SECONDS
        await _first(ended, self._hurry, limit)
        if not ended.done():
            child.tell(INTERRUPT)
            await asyncio.wait([ended], timeout=_INTERRUPTED_SECONDS)
        if not ended.done():
            _log.error(
                "process %d of %s does not end although it was asked to: it is killed",
                child.pid,
                program.name,
            )
            child.kill()
            await asyncio.wait([ended], timeout=_INTERRUPTED_SECONDS)
        child.close()


class Child:
    """A child process, as its parent sees it."""

    def __init__(self, process: SpawnProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe
        self.pid = process.pid or 0
        self.code: int | None = None
        """How it ended: its exit code, or a negative signal. None if that is unknown."""

    @classmethod
    def start(cls, program: Program, drain_seconds: float | None) -> Child:
        """Start a process. Blocking."""
        # Loaded only where it is used.
        import multiprocessing
        from multiprocessing import resource_tracker

        # It is started beforehand because that would let the signals through.
        resource_tracker.ensure_running()
        context = multiprocessing.get_context("spawn")
        theirs, ours = context.Pipe(duplex=False)
        start = Start(
            program.name, program.work, theirs, os.getpid(), Logging.current(), drain_seconds
        )
        process = context.Process(target=run_child, args=(start,), name=f"taquba {program.name}")
        try:
            with children_spared():
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    async def wait(self) -> None:
        """Wait until it has ended."""
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        def on_closed() -> None:
            loop.remove_reader(self._process.sentinel)
            closed.set()

        loop.add_reader(self._process.sentinel, on_closed)
        unknown_at: float | None = None
        try:
            while (code := self._process.exitcode) is None:
                if not closed.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(closed.wait(), _LOOK_SECONDS)
                    continue
                # Its end comes a moment after it has closed everything, unless somebody else, such
                # as the handling of signals of this program, has learned of it instead.
                unknown_at = unknown_at or loop.time() + _UNKNOWN_SECONDS
                if loop.time() > unknown_at:
                    break
                await asyncio.sleep(_END_SECONDS)
        finally:
            if not closed.is_set():
                loop.remove_reader(self._process.sentinel)
        self.code = code

    def tell(self, word: bytes) -> None:
        """Tell it what to do, unless it has ended."""
        with contextlib.suppress(OSError):
            self._pipe.send_bytes(word)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        with contextlib.suppress(OSError, ValueError):
            self._process.kill()

    def close(self) -> None:
        """Free what belongs to it; it has ended."""
        self._pipe.close()
        with contextlib.suppress(ValueError):
            self._process.close()


def _longer(pause: float, lived: float) -> float:
    if lived >= _SOUND_SECONDS:
        return _FIRST_PAUSE
    return min(max(_FIRST_PAUSE, 2 * pause), _LONGEST_PAUSE)


def _ending(code: int | None) -> str:
    if code is None:
        return "how is unknown"
    if code == OVERRAN:
        return "a function did not end by its timeout"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


async def _first(
    ended: asyncio.Task[None], event: asyncio.Event, seconds: float | None = None
) -> None:
    """Wait until a task has ended or an event is set, but not for longer than some seconds."""
    happened = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({ended, happened}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        happened.cancel()
