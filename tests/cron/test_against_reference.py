from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, note
from hypothesis import strategies as st

from taquba_cron import CronExpression, InvalidCronExpression, UnknownTimezone
from tests.cron import reference
from tests.cron.reference import Case, Cron


@given(reference.cases())
def test_firings_are_those_of_a_watched_clock(case: Case) -> None:
    assume(case.cron.fires_at_all)
    start, end = case.start, case.end
    expected = list(reference.firings(case.cron, ZoneInfo(case.zone), start, end))
    note(f"{case.cron} in {case.zone} from {start}: {len(expected)} firings")

    expression = CronExpression(str(case.cron), case.zone)
    just_before_start, just_before_end = start - timedelta(seconds=1), end - timedelta(seconds=1)
    found: list[datetime] = []
    moment = expression.next_after(just_before_start)
    while moment < end:
        found.append(moment)
        moment = expression.next_after(moment)
    assert found == expected

    back = takewhile(lambda at: at > just_before_start, expression.newest_first(just_before_end))
    assert list(back) == expected[::-1]


@given(reference.cases(), st.integers(0, 2 * 24 * 3600 * 1000))
def test_the_next_firing_does_not_depend_on_where_one_looks_from(case: Case, ms: int) -> None:
    assume(case.cron.fires_at_all)
    expression = CronExpression(str(case.cron), case.zone)
    moment = case.start + timedelta(milliseconds=ms)
    following = expression.next_after(moment)
    latest = next(expression.newest_first(moment))
    assert latest <= moment < following
    assert expression.next_after(latest) == following
    assert next(expression.newest_first(following)) == following


@given(reference.crons)
def test_what_is_refused_never_fires(cron: Cron) -> None:
    if cron.fires_at_all:
        CronExpression(str(cron))
    else:
        with pytest.raises(InvalidCronExpression):
            CronExpression(str(cron))


@given(
    st.text() | st.lists(st.text("0123456789*/,-#LW JANMON"), min_size=5, max_size=5).map(" ".join),
    st.text(),
)
def test_whatever_is_given_is_read_or_refused_clearly(text: str, zone: str) -> None:
    # Any other error, and any warning, fails the test.
    with contextlib.suppress(InvalidCronExpression, UnknownTimezone):
        CronExpression(text, zone)
