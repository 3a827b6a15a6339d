"""The request: what is refused when it is made, and what a job's headers keep of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import EnqueueRequest, InvalidArgument, InvalidArgumentType, Queue, TaqubaError
from taquba_webhooks import WebhookRequest, enqueue_webhook, webhook_enqueue_request
from taquba_webhooks._request import job_headers, request_of

URL = "https://hooks.example/a"


async def test_a_delivery_is_a_job_with_the_request_in_its_headers(queue: Queue) -> None:
    request = WebhookRequest(URL, "put", {"X-A": "1"}, timedelta(milliseconds=1500))
    job = await enqueue_webhook(
        queue, "hooks", request, b"body", job_id="own", delay=5, priority=7, max_attempts=9,
        dedup_key="k", kv_writes={"k": b"v"},
    )  # fmt: skip
    record = await queue.get_job(job.id)
    assert record is not None
    assert dict(record.headers) == {
        "webhook.url": URL,
        "webhook.method": "PUT",
        "webhook.timeout_ms": "1500",
        "http.X-A": "1",
    }
    assert (record.id, record.payload, record.queue) == ("own", b"body", "hooks")
    assert (record.priority, record.max_attempts, record.dedup_key) == (7, 9, "k")
    assert await queue.kv_get("k") == b"v"
    again = await enqueue_webhook(queue, "hooks", request, b"body", dedup_key="k")
    assert (again.id, again.new) == ("own", False)


async def test_a_delivery_can_be_part_of_another_commit(queue: Queue) -> None:
    request = webhook_enqueue_request("hooks", WebhookRequest(URL), b"body", delay=3)
    assert request == EnqueueRequest(
        "hooks", b"body", headers={"webhook.url": URL, "webhook.method": "POST"}, delay=3
    )


tokens = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1, max_size=9).map(lambda text: f"X-{text}")
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).map(str.strip)
headers = st.dictionaries(tokens, values, max_size=4).filter(
    lambda found: len({name.lower() for name in found}) == len(found)
)


@given(
    method=st.sampled_from(["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]),
    headers=headers,
    timeout=st.none() | st.integers(1, 3_600_000).map(lambda ms: timedelta(milliseconds=ms)),
)
def test_a_job_gives_back_the_request(
    method: str, headers: dict[str, str], timeout: timedelta | None
) -> None:
    request = WebhookRequest(URL, method, headers, timeout)
    kept = request_of(job_headers(request))
    assert (kept.url, kept.method, kept.headers) == (URL, method, headers)
    seconds = None if timeout is None else timeout.total_seconds()
    assert kept.timeout == seconds


@pytest.mark.parametrize(
    "url",
    ["http://h", "HTTPS://H:8443/p?q#f", "http://[2001:db8::1]:80/", "http://127.0.0.1",
     "http://2130706433/", "http://münchen.example/ü", "http://under_score.example.", "http://h:1"],
)  # fmt: skip
def test_urls_that_are_taken(url: str) -> None:
    assert WebhookRequest(url).url == url


BAD_URLS: dict[str, tuple[Any, type[TaqubaError], str]] = {
    "relative": ("/path", InvalidArgument, "'/path' must start with http"),
    "no scheme": ("hooks.example", InvalidArgument, "'hooks.example' must start with http"),
    "empty": ("", InvalidArgument, "'' must start"),
    "ftp": ("ftp://h/", InvalidArgument, "must start with http"),
    "file": ("file:///etc/passwd", InvalidArgument, "must start with http"),
    "no host": ("http:///x", InvalidArgument, "no host name"),
    "only a dot": ("http://./", InvalidArgument, "no host name"),
    "empty label": ("http://a..b/", InvalidArgument, "no host name"),
    "long label": ("http://" + "a" * 64 + ".b/", InvalidArgument, "no host name"),
    "long name": ("http://" + "a." * 127 + "b/", InvalidArgument, "no host name"),
    "space": ("http://a b/", InvalidArgument, "no host name"),
    "escape": ("http://a%2eb/", InvalidArgument, "no host name"),
    "zone": ("http://[fe80::1%25eth0]/", InvalidArgument, "no host name"),
    "no address": ("http://[::g]/", InvalidArgument, "not a URL"),
    "digits of another script": ("http://①②⑦.0.0.1/", InvalidArgument, "not a URL"),
    "octal": ("http://0177.0.0.1/", InvalidArgument, "not a URL"),
    "line break": ("http://h/\r\nX: y", InvalidArgument, "not a URL"),
    "NUL": ("http://h/\0", InvalidArgument, "not a URL"),
    "port": ("http://h:99999/", InvalidArgument, "port between"),
    "port 0": ("http://h:0/", InvalidArgument, "port between"),
    "no port": ("http://h:x/", InvalidArgument, "not a URL"),
    "None": (None, InvalidArgumentType, "NoneType"),
    "bytes": (b"http://h", InvalidArgumentType, "bytes"),
}


@pytest.mark.parametrize("case", BAD_URLS.values(), ids=BAD_URLS)
def test_urls_that_are_refused(case: tuple[Any, type[TaqubaError], str]) -> None:
    url, kind, message = case
    with pytest.raises(kind, match=message):
        WebhookRequest(url)


@pytest.mark.parametrize(
    "url",
    ["https://me:secret@h/", "https://secret@h/", "https://:secret@h/", "ftp://me:secret@h/",
     "https://me:secret@h:x/", "https://me:secret@a b/", "https://me:sec@secret@h/",
     "https://me:secret@h:0/", r"https://a\:secret@h/", "https://me:secret/x@h/",
     "https://me:secret?x@h/", "me:secret@h"],
)  # fmt: skip
def test_credentials_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        WebhookRequest(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in "".join(map(str, caught.value.args))
    assert caught.value.__cause__ is None


BAD_HEADERS: dict[str, tuple[Any, type[TaqubaError], str]] = {
    "CR LF": ({"X": "a\r\nB: c"}, InvalidArgument, "'X' contains a line break"),
    "LF": ({"X": "a\n"}, InvalidArgument, "'X' contains a line break"),
    "NUL": ({"X": "a\0b"}, InvalidArgument, "'X' contains"),
    "space at an end": ({"X": "a "}, InvalidArgument, "white space"),
    "not ASCII": ({"X": "ä"}, InvalidArgument, "outside of ASCII"),
    "DEL": ({"X": "\x7f"}, InvalidArgument, "control character"),
    "line break in a name": ({"X\r\nB": "c"}, InvalidArgument, r"'X\\r\\nB' is not a valid name"),
    "colon": ({"X:": "c"}, InvalidArgument, "'X:' is not a valid name"),
    "space in a name": ({"X Y": "c"}, InvalidArgument, "'X Y' is not a valid name"),
    "empty name": ({"": "c"}, InvalidArgument, "'' is not a valid name"),
    "name not ASCII": ({"ä": "c"}, InvalidArgument, "'ä' is not a valid name"),
    "name with a line break at its end": ({"X\n": "c"}, InvalidArgument, "is not a valid name"),
    "twice": ({"X-A": "1", "x-a": "2"}, InvalidArgument, "'x-a' is given twice"),
    "value of another type": ({"X": 1}, InvalidArgumentType, "'X' is of type int"),
    "bytes": ({b"X": b"1"}, InvalidArgumentType, "b'X'"),
    "a list": ([("X", "1")], InvalidArgumentType, "list"),
}
BAD_HEADERS |= {
    name: ({name: "1"}, InvalidArgument, f"'{name}' (belongs to|is set by)")
    for name in ("Host", "content-LENGTH", "Transfer-Encoding", "Connection", "Upgrade", "TE",
                 "Expect", "Proxy-Authorization", "Webhook-Id", "webhook-signature",
                 "Webhook-Timestamp")
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_HEADERS.values(), ids=BAD_HEADERS)
async def test_headers_that_are_refused(
    queue: Queue, case: tuple[Any, type[TaqubaError], str]
) -> None:
    bad, kind, message = case
    with pytest.raises(kind, match=message):
        await enqueue_webhook(queue, "hooks", WebhookRequest(URL, headers=bad), b"")
    assert (await queue.stats("hooks")).pending == 0


def test_secrets_in_headers_are_not_shown() -> None:
    request = WebhookRequest(URL, headers={"Authorization": "Bearer secret"})
    assert "secret" not in repr(request)
    with pytest.raises(InvalidArgument) as caught:
        WebhookRequest(URL, headers={"Authorization": "Bearer secret\n"})
    assert "secret" not in str(caught.value)


@given(name=st.text(), value=st.text())
def test_whatever_is_taken_cannot_add_a_line_to_the_request(name: str, value: str) -> None:
    try:
        WebhookRequest(URL, headers={name: value})
    except InvalidArgument:
        return
    line = f"{name}: {value}".encode("ascii")
    assert not {0, 10, 13} & set(line)
    assert ":" not in name


BAD_OTHERS: dict[str, tuple[dict[str, Any], type[TaqubaError], str]] = {
    "method": ({"method": "TRACE"}, InvalidArgument, "'TRACE'"),
    "method with a line break": ({"method": "GET\r\n"}, InvalidArgument, "method"),
    "no method": ({"method": None}, InvalidArgumentType, "None"),
    "time-out 0": ({"timeout": 0}, InvalidArgument, "timeout.*got 0"),
    "time-out in ms": ({"timeout": 30_000}, InvalidArgument, "timeout.*got 30000"),
    "negative": ({"timeout": timedelta(seconds=-1)}, InvalidArgument, "timeout"),
    "NaN": ({"timeout": float("nan")}, InvalidArgument, "nan"),
    "text": ({"timeout": "30"}, InvalidArgumentType, "'30'"),
    "bool": ({"timeout": True}, InvalidArgumentType, "True"),
}


@pytest.mark.parametrize("case", BAD_OTHERS.values(), ids=BAD_OTHERS)
def test_other_values_that_are_refused(
    case: tuple[dict[str, Any], type[TaqubaError], str],
) -> None:
    options, kind, message = case
    with pytest.raises(kind, match=message):
        WebhookRequest(URL, **options)


def test_only_a_request_can_be_enqueued() -> None:
    with pytest.raises(InvalidArgumentType, match=r"WebhookRequest.*str"):
        webhook_enqueue_request("hooks", URL, b"")  # type: ignore[arg-type]
