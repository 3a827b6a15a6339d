"""The ready window against a plain model, with everything that may happen while it is refilled.

The model is a commit log. A write is *decided*, then *visible* to scans, then *reported* to the
window, always in the order of decisions; the window hears of a removal when it is decided and
again (`forget`) when it is reported. A scan reads the visible rows, either as they were when it
began or one by one at later moments.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taquba._memory.window import NOTHING, Window
from taquba._model.records import Job

KEYS = [bytes([n, 1]) for n in range(1, 13)]
ROW_BYTES = 1024
"""About what an entry without payload counts for the byte cap."""


def make_job(version: int, size: int) -> Job:
    return Job(f"job-{version}", "q", bytes(size), None, 0, version, 1)


class Write(NamedTuple):
    key: bytes
    job: Job
    deletes: bool


class Scan:
    """A scan under way: what it has read, and where it reads on."""

    def __init__(self, after: bytes, snapshot: dict[bytes, Job] | None) -> None:
        self.position = after
        self.snapshot = snapshot
        self.rows: list[tuple[bytes, Job]] = []

    def read(self, visible: dict[bytes, Job]) -> bool:
        """Read one row; False at the end."""
        source = visible if self.snapshot is None else self.snapshot
        ahead = sorted(key for key in source if key > self.position)
        if not ahead:
            return False
        self.position = ahead[0]
        self.rows.append((ahead[0], source[ahead[0]]))
        return True


class WindowMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[Write] = []
        self.visible_upto = 0
        self.reported_upto = 0
        self.visible: dict[bytes, Job] = {}
        self.reported: dict[bytes, Job] = {}
        self.leaving: set[bytes] = set()
        self.scan: Scan | None = None
        self.version = 0
        self.window = Window()
        self.max_entries = 0
        self.max_bytes = 0

    @initialize(
        entries=st.integers(1, 5),
        rows=st.integers(1, 6),
        stored=st.sets(st.sampled_from(KEYS)),
        horizon=st.sampled_from([NOTHING, KEYS[3] + b"\0", "below the first"]),
    )
    def start(self, entries: int, rows: int, stored: set[bytes], horizon: bytes | str) -> None:
        for key in stored:
            self.visible[key] = self.reported[key] = self.next_job(0)
        if isinstance(horizon, str):
            horizon = min(stored)[:-1] if stored else NOTHING
        for key in [key for key in stored if key <= horizon]:
            del self.visible[key], self.reported[key]
        self.max_entries, self.max_bytes = entries, rows * ROW_BYTES + ROW_BYTES // 2
        self.window = Window(
            horizon if self.visible else None,
            max_entries=self.max_entries,
            max_bytes=self.max_bytes,
        )

    def next_job(self, size: int) -> Job:
        self.version += 1
        return make_job(self.version, size)

    def available(self) -> dict[bytes, Job]:
        """Rows that the window was told of and on which nobody decided."""
        return {key: job for key, job in self.reported.items() if key not in self.leaving}

    # -- writes ---------------------------------------------------------------------------------

    @rule(
        keys=st.sets(st.sampled_from(KEYS), min_size=1, max_size=5),
        size=st.sampled_from([0, 0, 0, 700, 5000]),
    )
    def decide_puts(self, keys: set[bytes], size: int) -> None:
        undone = {write.key for write in self.log[self.visible_upto :]}
        for key in sorted(keys - undone - self.visible.keys()):
            self.log.append(Write(key, self.next_job(size), deletes=False))

    @rule(key=st.sampled_from(KEYS))
    def decide_remove(self, key: bytes) -> None:
        if key in self.visible and key not in self.leaving:
            job = self.visible[key]
            removed = self.window.remove(key)
            assert removed is None or removed == job
            self.leaving.add(key)
            self.log.append(Write(key, job, deletes=True))

    @precondition(lambda self: len(self.window))
    @rule()
    def pop_front(self) -> None:
        known = self.window.first_key()
        key, job = self.window.pop_front()
        assert key == known
        assert key not in self.leaving, "handed out twice, or after its removal"
        assert self.visible[key] == job, "not the row of the store"
        assert all(key <= other for other in self.available()), "a smaller row was passed over"
        self.leaving.add(key)
        self.log.append(Write(key, job, deletes=True))

    @precondition(lambda self: self.visible_upto < len(self.log))
    @rule(count=st.sampled_from([1, 2, 99]))
    def make_visible(self, count: int) -> None:
        for write in self.log[self.visible_upto : self.visible_upto + count]:
            if write.deletes:
                del self.visible[write.key]
            else:
                self.visible[write.key] = write.job
            self.visible_upto += 1

    @precondition(lambda self: self.reported_upto < self.visible_upto)
    @rule(count=st.sampled_from([1, 2, 99]))
    def report(self, count: int) -> None:
        for write in self.log[self.reported_upto : self.visible_upto][:count]:
            if write.deletes:
                self.window.forget(write.key)
                self.leaving.discard(write.key)
                del self.reported[write.key]
            else:
                self.window.insert(write.key, write.job)
                self.reported[write.key] = write.job
            self.reported_upto += 1

    @precondition(lambda self: self.visible_upto < len(self.log))
    @rule()
    def withdraw(self) -> None:
        """The store does not answer: what was not yet handed to it is called off."""
        undone = self.log[self.visible_upto :]
        del self.log[self.visible_upto :]
        for write in undone:
            if write.deletes:
                self.leaving.discard(write.key)
                self.window.forget(write.key)
                self.window.insert(write.key, write.job)

    # -- refills --------------------------------------------------------------------------------

    @precondition(lambda self: self.scan is None and not self.window.complete)
    @rule(snapshot=st.booleans())
    def begin_refill(self, snapshot: bool) -> None:
        self.scan = Scan(self.window.begin_refill(), dict(self.visible) if snapshot else None)

    @precondition(lambda self: self.scan is not None)
    @rule(count=st.integers(1, 3))
    def read_on(self, count: int) -> None:
        assert self.scan is not None
        for _ in range(count):
            self.scan.read(self.visible)

    @precondition(lambda self: self.scan is not None and self.scan.rows)
    @rule()
    def end_refill_early(self) -> None:
        assert self.scan is not None
        self.window.end_refill(self.scan.rows, self.scan.position)
        self.scan = None

    @precondition(lambda self: self.scan is not None)
    @rule()
    def end_refill(self) -> None:
        assert self.scan is not None
        while self.scan.read(self.visible):
            pass
        self.window.end_refill(self.scan.rows, None)
        self.scan = None

    @precondition(lambda self: self.scan is not None)
    @rule()
    def abandon_refill(self) -> None:
        self.window.abandon_refill()
        self.scan = None

    @rule(
        keys=st.sets(st.sampled_from(KEYS), min_size=1, max_size=5),
        size=st.sampled_from([0, 0, 0, 700, 5000]),
    )
    def put_and_report(self, keys: set[bytes], size: int) -> None:
        self.decide_puts(keys, size)
        self.settle()

    @rule()
    def settle(self) -> None:
        """Everything decided lands and is reported."""
        self.make_visible(len(self.log))
        self.report(len(self.log))

    def teardown(self) -> None:
        """Without new decisions, taking and refilling hands out every row once, in order."""
        self.settle()
        if self.scan is not None:
            self.end_refill()
        expected = sorted(self.available())
        taken: list[bytes] = []
        while True:
            while self.window:
                self.pop_front()
                taken.append(self.log[-1].key)
            if self.window.complete:
                break
            self.begin_refill(snapshot=True)
            self.read_on(2)
            assert self.scan is not None
            if self.scan.read(self.visible):
                self.end_refill_early()
            else:
                self.end_refill()
        assert taken == expected

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def holds_what_it_must(self) -> None:
        window, horizon = self.window, self.window.horizon
        held = {key for key in KEYS if key in window}
        assert len(window) == len(held)
        assert window.first_key() == min(held, default=None)
        for key in held:
            assert key in self.visible, "a row that is not in the store"
            assert key not in self.leaving, "a row that somebody decided on"
            assert horizon is None or key <= horizon, "a row above the horizon"
        below = {key for key in self.available() if horizon is None or key <= horizon}
        assert below <= held, "a row below the horizon is hidden"

    @precondition(lambda self: self.reported_upto == self.visible_upto)
    @invariant()
    def no_row_of_the_store_is_where_the_next_owner_does_not_look(self) -> None:
        reached = self.window.reached()
        assert reached is None or all(key > reached for key in self.visible)

    @invariant()
    def keeps_its_caps(self) -> None:
        held = [key for key in KEYS if key in self.window]
        if len(held) > 1:
            assert len(held) <= self.max_entries
            assert sum(len(self.visible[key].payload) for key in held) <= self.max_bytes


TestWindow = WindowMachine.TestCase
# Its steps cost microseconds, so it can afford more of them than the machines on a store.
TestWindow.settings = settings(max_examples=6 * settings().max_examples)
