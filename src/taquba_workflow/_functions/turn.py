"""A turn: the function's branches, the calls they make, and the moment when all of them wait.

A turn counts the branches that are active: that run a step, or the function's own code. One that
waits is not, and one that gathers counts again when the last of its branches has ended. When none
is active, nothing can continue in this turn: it is over. Its tasks are cancelled, which only frees
what they hold; calls on the context during their clean-up are cancelled as well, so nothing is done
that a replay would not do again. A function that swallows that, and continues, is left behind where
it waits next.

A run that is asked to cancel makes no new call: steps under way come to their end, what is
recorded is replayed, and every other call waits until the turn is over. So whenever and however
often this happens, the function gets exactly as far as its history leads, and has told the same
compensations.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from taquba import CancelToken, Clock, InvalidArgumentType, TaqubaError, Timer
from taquba.extending import (
    Leash,
    awaited,
    contained,
    describe,
    legible,
    shown,
    was_cancelled,
)
from taquba_workflow._errors import MisplacedCall, NonDeterminism
from taquba_workflow._functions.history import CallKind, Entry, History, Place, call_name

T = TypeVar("T")

_RECHECK_MS: Final = 1000
_BREATH: Final = 50
"""Calls that are made before others on the event loop get their turn."""
_LATE_CALLS: Final = 100
"""Calls that the clean-up of a branch may make when its turn is over."""
_REFUSALS: Final = 10_000
"""Calls of a branch in a row that are refused before its function counts as one that never ends."""
_CLEAN_UP_SECONDS: Final = 5.0
"""How long, in real time, branches may clean up."""


class GoesOn(TaqubaError):
    """A function continued when its turn was over, or would never have come to its end."""

    permanent = False

    def __init__(
        self,
        why: str = (
            "its function swallows asyncio.CancelledError and continues when its turn is over: "
            "catch `Exception`, not every BaseException, or raise other exceptions again"
        ),
    ) -> None:
        super().__init__(why)


class Branch:
    """A line of calls: the function itself, or one of what it gathers."""

    __slots__ = (
        "_random",
        "calls",
        "late_calls",
        "leash",
        "now",
        "place",
        "refused",
        "task",
        "turn",
    )

    def __init__(self, turn: Turn, place: Place, now: int) -> None:
        self.turn = turn
        self.place = place
        self.now = now
        """When its last call ended, ms: the time, as far as a replay can know it."""
        self.calls = 0
        self.task: asyncio.Task[Any] | None = None
        self.leash: Leash[Any] | None = None
        self.late_calls = 0
        """Calls that it made when the turn was over."""
        self.refused = 0
        """Its last calls in a row that were refused."""
        self._random: Random | None = None

    def next_place(self) -> Place:
        place = (*self.place, self.calls)
        self.calls += 1
        self.refused = 0
        return place

    def random(self, run_id: str) -> Random:
        if self._random is None:
            self._random = Random(f"{run_id}/{self.place}")
        return self._random


_branch: ContextVar[Branch] = ContextVar("taquba_workflow_branch")
_stepping: ContextVar[bool] = ContextVar("taquba_workflow_stepping", default=False)


class Call(NamedTuple):
    """A call that a branch makes."""

    branch: Branch
    place: Place
    entry: Entry | None
    """What the history says about it."""


class Wait:
    """A branch that cannot continue."""

    __slots__ = ("child", "due", "entry", "future", "place", "signal", "timer")

    def __init__(
        self,
        place: Place,
        *,
        due: int | None = None,
        signal: str | None = None,
        child: str | None = None,
        entry: Entry | None = None,
    ) -> None:
        self.place = place
        self.due = due
        self.signal = signal
        self.child = child
        self.entry = entry
        """The record of the wait to write, if it is not written yet."""
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timer: Timer | None = None


class Returned(NamedTuple):
    """The function has come to its end."""

    value: Any


class Raised(NamedTuple):
    """The function has failed."""

    error: BaseException


class Suspended(NamedTuple):
    """All branches of the function wait."""

    waits: list[Wait]


class Turn:
    """One replay of a function, and what follows it.

    Args:
        run_id: The run.
        history: What it has done.
        clock: Where time comes from.
        root: Where its calls are in the history.
        now: When the function was to begin, ms.
        signals: Signals that have come, by key; those that it takes are removed.
        taken: Keys of signals that another run waits for.
        token: Fires when the run is asked to cancel; None if that no longer changes anything.
        closed: Whether it was asked to before.
    """

    def __init__(
        self,
        run_id: str,
        history: History,
        clock: Clock,
        root: Place,
        *,
        now: int,
        signals: dict[str, bytes],
        taken: set[str],
        token: CancelToken | None,
        closed: bool,
    ) -> None:
        self.run_id = run_id
        self.history = history
        self.clock = clock
        self.signals = signals
        self.taken = taken
        self.closed = closed
        """Whether the run is to be cancelled: new calls wait until the turn is over."""
        self.pausing = False
        """Whether the program stops: new calls wait for the next turn, in whichever process."""
        self._token = token
        self._root = Branch(self, root, now)
        self._active = 0
        self._in_steps = 0
        self._waits: dict[Place, Wait] = {}
        self._tasks: dict[asyncio.Task[Any], Leash[Any]] = {}
        self._over = asyncio.Event()
        self._fault: BaseException | None = None
        self._suspended: list[Wait] = []
        self._made = 0
        self.left_behind = False
        """Whether a branch had to be left behind, because it went on when the turn was over."""

    @property
    def is_over(self) -> bool:
        """Whether nothing that is called now is done."""
        return self._over.is_set()

    @property
    def busy(self) -> bool:
        """Whether the function's own code runs, or is about to."""
        return self._active > self._in_steps and not self._over.is_set()

    # -- its life ---------------------------------------------------------------------------

    async def run(self, function: Callable[[], Awaitable[object]]) -> Returned | Raised | Suspended:
        """Run the function as far as it gets; raises what makes going on impossible."""
        root = self._begin(self._root, _called(function))
        over = asyncio.ensure_future(self._over.wait())
        if self._token is not None:
            self._token.on_cancel(self._close)
        try:
            await asyncio.wait({root, over}, return_when=asyncio.FIRST_COMPLETED)
            finished = not self._over.is_set()
            if over.cancelled():
                raise was_cancelled(over)
        finally:
            self._over.set()
            over.cancel()
            await self._stop_all()
        if self._fault is not None:
            raise self._fault
        if not finished:
            return Suspended(self._suspended)
        if root.cancelled():
            return Raised(asyncio.CancelledError("the function cancelled itself"))
        error = root.exception()
        return Returned(root.result()) if error is None else Raised(legible(error))

    def _begin(self, branch: Branch, work: Awaitable[T]) -> asyncio.Task[T]:
        leash = Leash(work)

        async def run() -> T:
            _branch.set(branch)
            return await contained(leash)

        self._active += 1
        task = asyncio.create_task(run())
        branch.task, branch.leash = task, leash
        self._tasks[task] = leash
        return task

    async def _stop_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        _, going_on = await asyncio.wait(self._tasks, timeout=_CLEAN_UP_SECONDS)
        for task in going_on:
            self._tasks[task].leave(asyncio.CancelledError("the turn of this run is over"))
        if going_on:
            await asyncio.wait(going_on, timeout=_CLEAN_UP_SECONDS)
        self.left_behind = any(leash.left for leash in self._tasks.values())
        for task in self._tasks:
            if task.done() and not task.cancelled():
                # What its clean-up raised changes nothing.
                task.exception()

    def _close(self) -> None:
        self.closed = True

    def stop(self, fault: BaseException) -> None:
        """Nothing can continue: end the turn with this error."""
        if not self._over.is_set():
            self._fault = fault
            self._over.set()

    def _rest(self) -> None:
        """A branch is no longer active."""
        self._active -= 1
        if self._active == 0 and not self._over.is_set():
            self._suspended = list(self._waits.values())
            self._over.set()

    # -- calls ------------------------------------------------------------------------------

    def branch(self) -> Branch:
        """The branch that calls.

        Raises:
            MisplacedCall: It is none of this turn's.
        """
        branch = _branch.get(None)
        if branch is None or branch.turn is not self:
            raise MisplacedCall("outside of its function")
        if self._over.is_set():
            # To raise here, where nothing is awaited, would have a loop that catches everything
            # hold the event loop for ever.
            return branch
        if branch.task is not asyncio.current_task():
            raise MisplacedCall("in a task of its own")
        if _stepping.get():
            raise MisplacedCall("in a step")
        return branch

    async def call(self, kind: CallKind, name: str, digest: bytes = b"") -> Call:
        """Make a call: find what the history says about it."""
        branch = self.branch()
        place = branch.next_place()
        try:
            entry = self.history.take(place, kind, name, digest)
        except NonDeterminism as error:
            self.stop(error)
            raise
        return Call(branch, place, entry)

    async def enter(self) -> None:
        """Begin a call: before anything of it can fail, others get their turn now and then.

        Raises:
            asyncio.CancelledError: The turn is over.
        """
        if self._over.is_set():
            await self._refuse_late()
        self._made += 1
        if self._made % _BREATH == 0:
            await asyncio.sleep(0)

    async def begin(self, check: Callable[[], T]) -> T:
        """`enter` a call whose arguments `check` understands; what that raises is a refusal.

        A function that catches everything and calls again continues for ever. So a refusal lets
        others run, and is the end of the turn where no new call may be made any more.
        """
        await self.enter()
        try:
            self.branch()
            return check()
        except Exception as error:
            await self._refused(error)
            raise

    async def _refused(self, error: Exception) -> None:
        branch = _branch.get(None)
        if (
            branch is not None
            and branch.turn is self
            and branch.task is asyncio.current_task()
            and not _stepping.get()
        ):
            branch.refused += 1
            stuck = branch.refused >= _REFUSALS
            # A run that is to be cancelled gets past refusals, as it did before it was asked.
            waits = self.pausing or (stuck and self.closed)
            if waits and not self.history.goes_on(branch.place, branch.calls):
                await self.wait(Wait((*branch.place, branch.calls)))
            elif stuck:
                self.stop(
                    GoesOn(
                        f"its function made {branch.refused:,} calls in a row that were refused, "
                        f"the last one because: {describe(error)}; catch only what it can continue "
                        "after"
                    )
                )
        await asyncio.sleep(0)

    async def _refuse_late(self) -> NoReturn:
        """Cancel calls made when the turn is over; a branch that continues is left behind."""
        branch = _branch.get(None)
        if branch is not None and branch.turn is self:
            branch.late_calls += 1
            if branch.late_calls > _LATE_CALLS:
                if branch.task is asyncio.current_task() and branch.leash is not None:
                    branch.leash.leave(asyncio.CancelledError("the turn of this run is over"))
                await asyncio.get_running_loop().create_future()
        await asyncio.sleep(0)
        raise asyncio.CancelledError("the turn of this run is over")

    def changed(self, place: Place, expected: str, came: str) -> NonDeterminism:
        """What is known of a call does not fit the function: end the turn."""
        error = NonDeterminism(self.run_id, call_name(place), expected, came)
        self.stop(error)
        return error

    @contextmanager
    def stepping(self) -> Generator[None]:
        """While the code of a step runs."""
        self._in_steps += 1
        token = _stepping.set(True)
        try:
            yield
        finally:
            _stepping.reset(token)
            self._in_steps -= 1

    # -- waits ------------------------------------------------------------------------------

    async def gate(self, place: Place) -> None:
        """Go on only while new calls may be made."""
        if self.closed or self.pausing:
            await self.wait(Wait(place))

    async def until(self, call: Call, due: int | None, entry: Entry | None = None) -> None:
        """Wait for a time, unless it is over; `entry` is to be written down if the turn ends."""
        stopped = self.closed or self.pausing
        if stopped or due is None or due > self.clock.time_ms():
            await self.wait(Wait(call.place, due=due, entry=entry))

    async def recorded(self, work: Awaitable[T]) -> T:
        """Do something in the store; if that fails, nothing can continue."""
        try:
            return await work
        except TaqubaError as error:
            self.stop(error)
            raise

    async def wait(self, wait: Wait) -> None:
        """Wait until the time has come; for signals and children, the turn must end first.

        A signal may be on its way, or kept already: that is seen by the commit that ends the turn.
        """
        if self._over.is_set():
            raise asyncio.CancelledError("the turn of this run is over")
        self._waits[wait.place] = wait
        if wait.due is not None and wait.signal is None:
            self._arm(wait)
        self._rest()
        try:
            await wait.future
        except asyncio.CancelledError:
            # A function that is cut off by its own means, such as a timeout, continues.
            self._active += 1
            raise
        finally:
            self._waits.pop(wait.place, None)
            if wait.timer is not None:
                wait.timer.cancel()

    def waits_for(self, key: str) -> bool:
        """Whether a branch waits for this signal."""
        return any(wait.signal == key for wait in self._waits.values())

    def _arm(self, wait: Wait) -> None:
        assert wait.due is not None
        wait.timer = self.clock.call_at(wait.due, _RECHECK_MS, lambda: self._come_due(wait))

    def _come_due(self, wait: Wait) -> None:
        if self._over.is_set() or self.closed or self.pausing or wait.future.done():
            return
        assert wait.due is not None
        if self.clock.time_ms() < wait.due:
            self._arm(wait)
            return
        self._active += 1
        wait.future.set_result(None)

    # -- branches ---------------------------------------------------------------------------

    async def gather(self, awaitables: tuple[Awaitable[Any], ...]) -> tuple[Any, ...]:
        """Run each as a branch of its own; all of them come to their end."""
        try:
            await self.begin(partial(_check_gathered, awaitables))
            return await self._gather(awaitables)
        finally:
            for awaitable in awaitables:
                if inspect.iscoroutine(awaitable) and _is_new(awaitable):
                    # Else it would be reported as forgotten.
                    awaitable.close()

    async def _gather(self, awaitables: tuple[Awaitable[Any], ...]) -> tuple[Any, ...]:
        parent = self.branch()
        place = parent.next_place()
        try:
            self.history.take_gather(place)
        except NonDeterminism as error:
            self.stop(error)
            raise
        if not awaitables:
            return ()
        branches = [Branch(self, (*place, number), parent.now) for number in range(len(awaitables))]
        left, rests = len(branches), True

        def resume() -> None:
            nonlocal rests
            if rests:
                rests = False
                self._active += 1

        def end(_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                resume()
            self._rest()

        tasks = [
            self._begin(branch, awaitable)
            for branch, awaitable in zip(branches, awaitables, strict=True)
        ]
        for task in tasks:
            task.add_done_callback(end)
        self._rest()
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            resume()
            if not self._over.is_set():
                # Where the turn is over, all are cancelled: again would break into their clean-up.
                for task in tasks:
                    task.cancel()
            raise
        parent.now = max(branch.now for branch in branches)
        for task in tasks:
            del self._tasks[task]
        # All of them are asked, for the loop reports an error that nobody asks for.
        failed = [task for task in tasks if not task.cancelled() and task.exception() is not None]
        return tuple(task.result() for task in failed or tasks)


async def _called(function: Callable[[], Awaitable[object]]) -> object:
    # Perhaps a plain decorator's work, whatever the annotation says.
    return await awaited(function())


def _check_gathered(awaitables: tuple[object, ...]) -> None:
    for awaitable in awaitables:
        if not inspect.isawaitable(awaitable):
            raise InvalidArgumentType(
                f"gather takes calls of the context, and coroutines; got {shown(awaitable)}"
            )


def _is_new(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Whether a coroutine never began."""
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED


class RunningTurns:
    """The turns that run now, in this process."""

    def __init__(self) -> None:
        self._turns: set[Turn] = set()
        self._stopping = False

    @property
    def busy(self) -> bool:
        """Whether the code of a function runs, for a virtual clock that is about to move on."""
        return any(turn.busy for turn in self._turns)

    async def run(
        self, turn: Turn, function: Callable[[], Awaitable[object]]
    ) -> Returned | Raised | Suspended:
        """Run a turn's function; see `Turn.run`."""
        turn.pausing = self._stopping
        self._turns.add(turn)
        try:
            return await turn.run(function)
        finally:
            self._turns.discard(turn)

    def stop(self) -> None:
        """Have turns end as soon as the steps have that run now."""
        self._stopping = True
        for turn in self._turns:
            turn.pausing = True

    def go_on(self) -> None:
        """Let turns go as far as they get."""
        self._stopping = False
