"""A bucket that answers oddly now and then, under everything at once; see `campaign`."""

from __future__ import annotations

import pytest

from tests.faults.campaign import campaign


async def test_nothing_acknowledged_is_lost_to_odd_answers() -> None:
    report = await campaign(seed=1, seconds=6, share=0.03, engine=False)
    report.check()
    assert report.acknowledged
    assert report.openings > 1
    assert report.struck > 10
    assert report.calls.keys() - {"batches killed"} == {
        "batches",
        "elections",
        "looks",
        "objects",
        "results",
        "runs",
        "terms",
    }


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 4))
async def test_nothing_acknowledged_is_lost_to_odd_answers_for_minutes(seed: int) -> None:
    report = await campaign(seed=seed, seconds=120, engine=False)
    report.check()
