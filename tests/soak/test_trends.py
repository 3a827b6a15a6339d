"""What grows with time is reported; what only moves with the load is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benches.soak.history import Call, Histories, HistoryWriter, Life, read_life
from benches.soak.plan import Plan
from benches.soak.trends import judge_trends

SECONDS = 900
PLAN = Plan(url="", begin=0.0)

Curve = Callable[[float], float]


def flat(moment: float) -> float:
    return 100 + 50 * PLAN.load_at(moment)


def growing(moment: float) -> float:
    return flat(moment) * (1 + 20 * (moment / SECONDS) ** 2)


def calls(name: str, seconds: Curve, length: int = SECONDS) -> Life:
    """Ten calls a second, each of which takes `seconds`."""
    life = Life(1)
    for number in range(length * 10):
        begin = number / 10
        end = begin + seconds(begin)
        life.calls.append(Call(f"1.p.{number}", 1, "p", name, {}, begin, end))
    return life


def soak(
    *, objects: Curve = flat, rss: Curve = flat, seconds: Curve = flat, length: int = SECONDS
) -> set[str]:
    """Names of what is said to grow."""
    events: list[dict[str, Any]] = [
        {
            "event": "sample",
            "t": float(moment),
            "objects": objects(moment) * 100,
            "bytes": 1e6,
            "rss_mb": rss(moment),
            "age": 100.0,
        }
        for moment in range(0, length, 5)
    ]
    life = calls("enqueue", lambda moment: seconds(moment) / 1000, length)
    violations = judge_trends([life], events, PLAN).violations
    assert all(violation.startswith("bounded: ") for violation in violations)
    return {violation.removeprefix("bounded: ").split()[0].strip(",") for violation in violations}


def test_load_that_rises_and_falls_is_no_growth() -> None:
    assert soak() == set()


@pytest.mark.parametrize(
    ("curves", "grows"),
    [
        ({"objects": growing}, {"objects"}),
        ({"rss": growing}, {"memory"}),
        ({"seconds": growing}, {"enqueue"}),
    ],
)
def test_growth_is_reported(curves: dict[str, Any], grows: set[str]) -> None:
    assert soak(**curves) == grows


def test_a_short_soak_says_nothing() -> None:
    assert soak(objects=growing, length=200) == set()


def test_latency_during_trouble_and_right_after_is_left_out() -> None:
    plan_events = [
        {"event": "sample", "t": float(t), "objects": 1, "bytes": 1, "rss_mb": None, "age": 1.0}
        for t in range(0, SECONDS, 5)
    ]
    trouble = {"event": "trouble", "begin": 600.0, "t": float(SECONDS)}
    life = calls("ack", lambda moment: 0.01 if moment < 600 else 5)
    assert judge_trends([life], [*plan_events, trouble], PLAN).violations == []
    assert judge_trends([life], plan_events, PLAN).violations != []


def test_a_process_that_was_killed_leaves_half_a_line_and_a_call_without_an_answer(
    tmp_path: Path,
) -> None:
    path = Histories.path(tmp_path, 3)
    history = HistoryWriter(path)
    history.write(event="opened", clock_ms=0)
    history.write(id="3.p.1", call="enqueue", asked={"jobs": []})
    history.write(id="3.p.1", result=[])
    history.write(id="3.p.2", call="enqueue", asked={"jobs": []})
    history.close()
    with path.open("ab") as file:
        file.write(b'{"id":"3.p.2","resu')
    life = read_life(path, 3)
    assert life.opened is not None
    assert [call.ok for call in life.calls] == [True, False]
    assert life.calls[1].unknown
    assert [found.number for found in Histories(tmp_path)] == [3]
    assert list(Histories(tmp_path, before=3)) == []
