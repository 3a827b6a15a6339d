from __future__ import annotations

from datetime import UTC, datetime

import pytest

from taquba import InvalidArgument
from taquba_cron import CronExpression, InvalidCronExpression, UnknownTimezone


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "timezone", "after", "firing"),
    [
        ("*/15 * * * *", "UTC", "2030-01-01 00:00", "2030-01-01 00:15"),
        ("*/15 * * * *", "UTC", "2030-01-01 00:14:59.999", "2030-01-01 00:15"),
        ("0 9 * * mon-fri", "UTC", "2030-01-04 09:00", "2030-01-07 09:00"),
        ("0 0 1 JAN,jul *", "UTC", "2030-01-01 00:00", "2030-07-01 00:00"),
        ("0 0 29 2 *", "UTC", "2030-01-01 00:00", "2032-02-29 00:00"),
        ("0 12 * * 7", "UTC", "2030-01-01 00:00", "2030-01-06 12:00"),
        ("0 12 * * 0", "UTC", "2030-01-01 00:00", "2030-01-06 12:00"),
        ("30 9 * * *", "Asia/Kolkata", "2030-01-01 00:00", "2030-01-01 04:00"),
        # Neither day field is open, so either of them is enough: Friday the 4th, then the 13th.
        ("0 0 13 * FRI", "UTC", "2030-01-01 00:00", "2030-01-04 00:00"),
        ("0 0 13 * FRI", "UTC", "2030-01-11 00:00", "2030-01-13 00:00"),
        # The 30th of February does not come, but its Mondays do.
        ("0 0 30 2 MON", "UTC", "2030-01-01 00:00", "2030-02-04 00:00"),
        # A step over one value ends with it.
        ("0 0 5-5/2 * *", "UTC", "2030-01-05 00:00", "2030-02-05 00:00"),
        ("0 0 * * Mon-MON/2", "UTC", "2030-01-07 00:00", "2030-01-14 00:00"),
        # New York skips 02:00 to 03:00 on 2030-03-10 and repeats 01:00 to 02:00 on 2030-11-03.
        ("30 2 * * *", "America/New_York", "2030-03-10 05:00", "2030-03-10 07:00"),
        ("30 2 * * *", "America/New_York", "2030-03-10 07:00", "2030-03-11 06:30"),
        ("*/20 * * * *", "America/New_York", "2030-03-10 06:40", "2030-03-10 07:00"),
        ("*/20 * * * *", "America/New_York", "2030-03-10 07:00", "2030-03-10 07:20"),
        ("30 1 * * *", "America/New_York", "2030-11-03 00:00", "2030-11-03 05:30"),
        ("30 1 * * *", "America/New_York", "2030-11-03 05:30", "2030-11-04 06:30"),
        ("*/20 * * * *", "America/New_York", "2030-11-03 05:40", "2030-11-03 07:00"),
        # Lord Howe Island moves its clocks by half an hour.
        ("15 2 * * *", "Australia/Lord_Howe", "2030-10-05 00:00", "2030-10-05 15:30"),
        # Samoa had no 30 December 2011.
        ("0 9 * * *", "Pacific/Apia", "2011-12-30 00:00", "2011-12-30 10:00"),
        ("0 9 * * *", "Pacific/Apia", "2011-12-30 10:00", "2011-12-30 19:00"),
    ],
)
def test_next_firing(expression: str, timezone: str, after: str, firing: str) -> None:
    assert CronExpression(expression, timezone).next_after(utc(after)) == utc(firing)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "daily",
        "@daily",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
        "* * * FOO *",
        "1,,2 * * * *",
        "-1 * * * *",
        f"*/{'9' * 5000} * * * *",
        None,
        5,
    ],
)
def test_what_cannot_be_read_is_refused(expression: str) -> None:
    with pytest.raises(InvalidCronExpression, match="write five fields") as caught:
        CronExpression(expression)
    assert repr(expression) in str(caught.value)
    assert caught.value.permanent


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "* * */30 2 MON#5"])
def test_what_never_fires_is_refused(expression: str) -> None:
    with pytest.raises(InvalidCronExpression, match="day"):
        CronExpression(expression)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "Europe", "../etc/passwd", "/etc", "a\0b", 1])
def test_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(UnknownTimezone, match="Europe/Berlin") as caught:
        CronExpression("* * * * *", name)
    assert repr(name) in str(caught.value)


def test_stepped_range_from_a_name_to_a_number_is_refused() -> None:
    with pytest.raises(InvalidCronExpression, match=r"'\* \* \* \* MON-5/2'.*MON-5 as numbers"):
        CronExpression("* * * * MON-5/2")


def test_naive_moment_is_refused() -> None:
    naive = datetime(2030, 1, 1)  # noqa: DTZ001 - the point
    with pytest.raises(InvalidArgument, match="naive"):
        CronExpression("* * * * *").next_after(naive)
    with pytest.raises(InvalidArgument, match="naive"):
        next(CronExpression("* * * * *").newest_first(naive))
