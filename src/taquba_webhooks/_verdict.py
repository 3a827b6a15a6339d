"""How a receiver's response decides about the delivery."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NamedTuple

from taquba import PermanentFailure, RetryAfter, TaqubaError
from taquba.extending import redact
from taquba_webhooks._request import shown_url

_LONGEST_RETRY_AFTER: Final = 24 * 3600
"""Seconds. A receiver may ask for a long pause without using up the few attempts."""

_RETRIED: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_PREVIEW_CHARACTERS: Final = 500


class DeliveryFailed(TaqubaError):
    """An attempt at a delivery failed; the next one may succeed."""

    permanent = False


class Answer(NamedTuple):
    """A receiver's response, as far as it was read."""

    status: int
    body: bytes = b""
    retry_after: str | None = None
    location: str | None = None


def failure(receiver: str, answer: Answer, now: datetime) -> TaqubaError | None:
    """None if the delivery succeeded, otherwise the error that settles its job."""
    status = answer.status
    if 200 <= status < 300:
        return None
    reason = f"{receiver} answered {_named(status)}{_preview(answer.body)}"
    if status in _RETRIED or 500 <= status < 600:
        delay = _retry_after_seconds(answer.retry_after, now)
        return DeliveryFailed(reason) if delay is None else RetryAfter(delay, reason)
    if 300 <= status < 400:
        to = "" if answer.location is None else f" to {shown_url(answer.location)!r}"
        reason += f"; redirects{to} are not followed: deliver to the final URL"
    return PermanentFailure(reason)


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _preview(body: bytes) -> str:
    if not body:
        return ""
    # Before it is shortened: half of a secret does not look like one.
    text = redact(body.decode(errors="replace"))
    more = " (shortened)" if len(text) > _PREVIEW_CHARACTERS else ""
    # As a literal: a receiver must not be able to write lines into logs.
    return f": {text[:_PREVIEW_CHARACTERS]!r}{more}"


def _retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """How long a receiver asks to wait; None if it does not say, or asks for no wait."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,20}", value):
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return min(seconds, _LONGEST_RETRY_AFTER) if seconds > 0 else None
