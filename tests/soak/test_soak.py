"""A soak that is short: real owners that are really killed and fenced, and a verdict on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benches.soak.__main__ import report, soak
from benches.soak.checker import check_folder
from benches.soak.plan import ORDERS


async def run(kind: str, folder: Path, seconds: float) -> None:
    assert await soak(kind, folder, seconds, rate=60, seed=7)
    tally = check_folder(folder, "left.json").tally
    assert tally["jobs"] > 10
    assert sum(count for what, count in tally.items() if what.startswith("trouble: ")) > 0
    # The checker looks at what is there.
    drained = json.loads((folder / "drained.json").read_text("utf-8"))
    drained["queues"][ORDERS]["jobs"]["pending"].append(["nobody's", 0, 64])
    (folder / "drained.json").write_text(json.dumps(drained), "utf-8")
    assert not report(folder)


async def test_a_short_soak_on_a_folder(tmp_path: Path) -> None:
    await run("folder", tmp_path / "soak", 8)


@pytest.mark.long
async def test_a_soak_on_s3(tmp_path: Path) -> None:
    await run("s3", tmp_path / "soak", 60)
