"""Whatever is killed, and whenever: what a producer was told is taken, and nothing twice."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from taquba import Producer, Queue
from taquba.testing import MockClock
from tests.inbox.kill_child import ASLEEP, KEYED
from tests.inbox.support import inbox_at, names, rejected

ROOT = Path(__file__).parents[2]


async def test_a_kill_at_any_step_of_either_side_loses_and_doubles_nothing(tmp_path: Path) -> None:
    # Forking children must happen where no storage engine runs yet.
    command = [sys.executable, "-m", "tests.inbox.kill_child", str(tmp_path)]
    subprocess.run(command, check=True, timeout=120, cwd=ROOT)  # noqa: ASYNC221 - nothing else runs
    lives = sorted(tmp_path.iterdir(), key=lambda folder: int(folder.name))  # noqa: ASYNC240
    assert len(lives) > 50
    for folder in lives:
        acknowledged = (folder / "acknowledged").read_text().split()
        store = folder / "store"
        async with Queue.open(store, inbox=ASLEEP, fsync=False, clock=MockClock()) as queue:
            # A caller that was killed before it heard of its success calls again.
            async with Producer.open(store, fsync=False) as producer:
                keyed = await producer.enqueue("q", KEYED, idempotency_key="key")
            await queue.ingest_now()
            jobs = (await queue.list_jobs("q", "pending")).jobs
        ids = [job.id for job in jobs]
        assert set(acknowledged) <= set(ids), folder
        assert len(ids) == len(set(ids)) <= 4, folder
        payloads = Counter(job.payload for job in jobs)
        assert payloads[KEYED] == 1, folder
        assert set(payloads.values()) == {1}, folder
        assert keyed.id in ids
        inbox = await inbox_at(store)
        assert await names(inbox) == [], folder
        assert set(await rejected(inbox)) <= {"broken"}, folder
