"""What a status, a `Retry-After` and a body mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import PermanentFailure, RetryAfter
from taquba_webhooks import DeliveryFailed
from taquba_webhooks._verdict import Answer, failure

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
DAY = 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        (range(200, 300), type(None)),
        ([408, 429, *range(500, 600)], DeliveryFailed),
        ([100, 101, 199, *range(300, 408), *range(409, 429), *range(430, 500), 600, 999],
         PermanentFailure),
    ],
)  # fmt: skip
def test_the_status_decides(statuses: range, kind: type[object]) -> None:
    for status in statuses:
        assert type(failure("http://h", Answer(status), NOW)) is kind


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        ("1", 1000),
        ("120", 120_000),
        ("86400", DAY),
        ("86401", DAY),
        ("99999999999999999999", DAY),
        ("Tue, 01 Jan 2030 12:00:30 GMT", 30_000),
        ("Tuesday, 01-Jan-30 12:00:30 GMT", 30_000),
        ("Tue Jan  1 12:00:30 2030", 30_000),
        ("Tue, 01 Jan 2030 13:00:30 +0100", 30_000),
        ("Wed, 01 Jan 2031 12:00:00 GMT", DAY),
    ],
)
@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_retry_after(value: str, milliseconds: int, status: int) -> None:
    failed = failure("http://h", Answer(status, retry_after=value), NOW)
    assert isinstance(failed, RetryAfter)
    assert failed.delay_ms == milliseconds
    assert failed.reason.startswith(f"http://h answered {status}")


@pytest.mark.parametrize(
    "value",
    [None, "", "0", "-1", "1.5", "soon", "Tue, 01 Jan 2030 12:00:00 GMT", "٣",
     "Tue, 01 Jan 2030 11:59:59 GMT", "Tue, 01 Jan 99999 12:00:00 GMT", "9" * 5000],
)  # fmt: skip
def test_without_a_usable_retry_after_the_queue_backs_off(value: str | None) -> None:
    assert type(failure("http://h", Answer(503, retry_after=value), NOW)) is DeliveryFailed


@given(value=st.text() | st.text("0123456789 :,+-GMTJanTue"), status=st.sampled_from([429, 503]))
def test_whatever_a_receiver_says_is_a_bounded_wait(value: str, status: int) -> None:
    failed = failure("http://h", Answer(status, retry_after=value), NOW)
    if isinstance(failed, RetryAfter):
        assert timedelta(0) < timedelta(milliseconds=failed.delay_ms) <= timedelta(days=1)
    else:
        assert isinstance(failed, DeliveryFailed)


@given(body=st.binary(max_size=4000), location=st.none() | st.text(max_size=4000))
def test_a_reason_is_one_short_line(body: bytes, location: str | None) -> None:
    for status in (301, 404, 500):
        reason = str(failure("http://h", Answer(status, body, location=location), NOW))
        assert len(reason.splitlines()) == 1
        assert reason.isprintable()
        # A character can take up to ten ("\U0010ffff") to be shown.
        assert len(reason) < 7200


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/elsewhere", "/elsewhere"),
        ("https://other.example", "https://other.example"),
        ("https://other.example:8443/", "https://other.example:8443/"),
        ("https://other.example/services/T0/B0/hunter2", "https://other.example/***"),
        ("https://me:hunter2@other.example/x?token=hunter2", "***@other.example"),
        ("https://me:hun/ter2@hunter2@other.example/x", "***@other.example"),
        ("https://other.example?X-Amz-Signature=hunter2", "https://other.example/***"),
        ("https://other.example#access_token=hunter2", "https://other.example/***"),
        ("//other.example/hunter2", "//other.example/***"),
        ("/x?token=hunter2", "/***"),
        ("/services/T0/B0/hunter2", "/***"),
        ("?hunter2", "/***"),
        ("hunter2", "/***"),
    ],
)
def test_a_refused_redirect_shows_no_more_than_the_host(location: str, shown: str) -> None:
    failed = failure("http://h", Answer(302, location=location), NOW)
    assert f"redirects to {shown!r} are not followed" in str(failed)
    assert "hunter2" not in repr(failed)


def test_a_preview_shows_no_secret_also_where_it_ends_in_one() -> None:
    body = b"x" * 480 + b" https://me:hunter2hunter2hunter2@h.example/?sig=hunter2"
    for status in (400, 500):
        assert "hunter2" not in str(failure("http://h", Answer(status, body), NOW))
