"""The HTTP request that a job represents: checked when created, carried in the job's headers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

import httpx

from taquba import Duration, InvalidArgument, InvalidArgumentType
from taquba.extending.checks import duration_ms

URL_HEADER: Final = "webhook.url"
METHOD_HEADER: Final = "webhook.method"
TIMEOUT_HEADER: Final = "webhook.timeout_ms"
HTTP_PREFIX: Final = "http."

_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_LONGEST_TIMEOUT_MS: Final = 3600 * 1000
"""A longer one is considered a mistake (such as milliseconds for seconds)."""

_HOST_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"([!-~]([\t -~]*[!-~])?)?")
_CONNECTION_HEADERS: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that say where a message ends and how it travels (RFC 9110, 7.6.1): if two of them
contradict each other, receivers and proxies see requests that were never sent."""

_PARTS: Final = re.compile(r"((?:[^/?#]*:)?//[^/?#]*)?(.*)", re.DOTALL)
_PLAIN_WORD: Final = re.compile(r"/?[a-z.]{1,15}")

SIGNING_HEADERS: Final = frozenset({"webhook-signature", "webhook-timestamp"})
_DELIVERY_HEADERS: Final = SIGNING_HEADERS | {"webhook-id"}
"""Headers that the worker sets for each attempt; receivers trust them."""


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """An HTTP request to deliver; its body is the job's payload.

    Attributes:
        url: Absolute ``http`` or ``https`` URL without credentials.
        method: ``DELETE``, ``GET``, ``HEAD``, ``OPTIONS``, ``PATCH``, ``POST`` or ``PUT``.
        headers: HTTP headers to send, in printable ASCII. They are stored with the job. Those of
            the connection (``Host``, ``Content-Length``, ``Transfer-Encoding``, …) and those that
            identify and sign a delivery (``Webhook-…``) cannot be set by callers.
        timeout: Seconds for the whole delivery, at most an hour. Default: the worker's.

    Raises:
        InvalidArgument: A part of it cannot be sent; the message names the part and shows no
            secret.
        InvalidArgumentType: A part of it has the wrong type.
    """

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    timeout: Duration | None = None

    def __post_init__(self) -> None:
        parse_url(self.url)
        object.__setattr__(self, "method", _method(self.method))
        object.__setattr__(self, "headers", _headers(self.headers))
        if self.timeout is not None:
            timeout_ms(self.timeout, "timeout")

    def __repr__(self) -> str:
        shown = shown_url(self.url)
        return f"WebhookRequest(url={shown!r}, method={self.method!r}, timeout={self.timeout!r})"


def job_headers(request: WebhookRequest) -> dict[str, str]:
    """The headers of a job that represents `request`."""
    headers = {URL_HEADER: request.url, METHOD_HEADER: request.method}
    if request.timeout is not None:
        headers[TIMEOUT_HEADER] = str(timeout_ms(request.timeout, "timeout"))
    headers.update((HTTP_PREFIX + name, value) for name, value in request.headers.items())
    return headers


def request_of(headers: Mapping[str, str]) -> WebhookRequest:
    """The request that a job's headers represent; checked again, whoever wrote them.

    Raises:
        InvalidArgument: They represent no request, or one that cannot be sent.
    """
    url = headers.get(URL_HEADER)
    if url is None:
        raise InvalidArgument(
            f"the job has no header {URL_HEADER!r}: enqueue webhooks with enqueue_webhook()"
        )
    return WebhookRequest(
        url,
        headers.get(METHOD_HEADER, "POST"),
        {
            name.removeprefix(HTTP_PREFIX): value
            for name, value in headers.items()
            if name.startswith(HTTP_PREFIX)
        },
        _stored_timeout(headers.get(TIMEOUT_HEADER)),
    )


def parse_url(url: str) -> httpx.URL:
    """An absolute http or https URL with a host that can be resolved."""
    if not isinstance(url, str):
        raise InvalidArgumentType(f"url must be a str, not {type(url).__name__}")
    # A message must not show a secret, even one written where none belongs.
    shown = shown_url(url)
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        why = str(error) if shown == url else "it cannot be parsed"
        raise InvalidArgument(f"url {shown!r} is not a URL: {why}") from None
    if parsed.scheme not in ("http", "https"):
        raise InvalidArgument(f"url {shown!r} must start with http:// or https://")
    if parsed.userinfo:
        raise InvalidArgument(
            f"url {shown!r} contains credentials, which would be visible wherever it is shown: "
            "send them in an Authorization header"
        )
    if not _is_host(parsed.raw_host.decode()):
        raise InvalidArgument(f"url {shown!r} has no host name or IP address as its host")
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise InvalidArgument(f"url {shown!r} must have a port between 1 and 65535")
    return parsed


def shown_url(url: str) -> str:
    """The part of a URL that may be shown: at most its host, as paths and queries may hold tokens.

    A relative URL that is a plain word is shown, so that a typing error is visible.
    """
    before, _, rest = url.rpartition("@")
    if before:
        return "***@" + re.split(r"[/?#]", rest, maxsplit=1)[0]
    host, path = cast("re.Match[str]", _PARTS.match(url)).groups(default="")
    plain = path in ("", "/") or (not host and _PLAIN_WORD.fullmatch(path))
    return host + (path if plain else "/***")


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            return False
    return len(host) <= 253 and _HOST_NAME.fullmatch(host) is not None


def _method(method: str) -> str:
    if not isinstance(method, str):
        raise InvalidArgumentType(f"method must be a str, not {method!r}")
    if method.upper() not in _METHODS:
        raise InvalidArgument(
            f"method must be one of {', '.join(sorted(_METHODS))}; got {method!r}"
        )
    return method.upper()


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise InvalidArgumentType(f"headers must map str to str, not {type(headers).__name__}")
    names: set[str] = set()
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgumentType(
                f"headers must map str to str; the value of {name!r} is of type "
                f"{type(value).__name__}"
            )
        check_header_name(name)
        if name.lower() in _DELIVERY_HEADERS:
            raise InvalidArgument(f"header {name!r} is set by the worker; leave it out")
        if name.lower() in names:
            raise InvalidArgument(f"header {name!r} is given twice; case does not matter")
        if not _HEADER_VALUE.fullmatch(value):
            # Not shown: headers carry tokens.
            raise InvalidArgument(
                f"the value of header {name!r} contains a line break, a control character, a "
                "character outside of ASCII, or white space at an end; encode it"
            )
        names.add(name.lower())
    return dict(headers)


def check_header_name(name: str) -> None:
    """Refuse an invalid header name, and that of a header that belongs to the connection."""
    if not _HEADER_NAME.fullmatch(name):
        raise InvalidArgument(f"{name!r} is not a valid name of an HTTP header")
    if name.lower() in _CONNECTION_HEADERS:
        raise InvalidArgument(f"header {name!r} belongs to the connection; leave it out")


def timeout_ms(timeout: Duration, name: str) -> int:
    """A timeout in whole milliseconds, at least 1."""
    return duration_ms(timeout, name, minimum=1, maximum=_LONGEST_TIMEOUT_MS)


def _stored_timeout(text: str | None) -> Duration | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text):
        raise InvalidArgument(f"header {TIMEOUT_HEADER!r} must be whole milliseconds; got {text!r}")
    return int(text) / 1000
