"""Signatures of Standard Webhooks, symmetric version ``v1``.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from taquba import InvalidArgument, InvalidArgumentType

_SECRET_PREFIX: Final = "whsec_"


class Signer:
    """Signs deliveries with all of its secrets, so that receivers can switch to a new one.

    Args:
        secrets: Base64, with or without ``whsec_`` before it; one, or several.
    """

    def __init__(self, secrets: str | Sequence[str]) -> None:
        if isinstance(secrets, str):
            secrets = [secrets]
        elif not isinstance(secrets, Sequence) or isinstance(secrets, bytes):
            raise InvalidArgumentType(
                f"signing_secret must be a str or a list of them, not {type(secrets).__name__}"
            )
        if not secrets:
            raise InvalidArgument("signing_secret is an empty list: give None to sign nothing")
        self._keys = [_key(secret) for secret in secrets]

    def sign(self, delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the headers that say what was sent, when, and by whom.

        Args:
            delivery_id: The same for every attempt at a delivery.
            timestamp: Seconds since the Unix epoch.
            body: The body as it is sent.
        """
        signed = b"%b.%d.%b" % (delivery_id.encode(), timestamp, body)
        digests = [hmac.digest(key, signed, hashlib.sha256) for key in self._keys]
        return {
            "Webhook-Id": delivery_id,
            "Webhook-Timestamp": str(timestamp),
            "Webhook-Signature": " ".join(
                f"v1,{base64.b64encode(digest).decode()}" for digest in digests
            ),
        }


def _key(secret: str) -> bytes:
    if not isinstance(secret, str):
        raise InvalidArgumentType(f"a signing secret must be a str, not {type(secret).__name__}")
    text = secret.removeprefix(_SECRET_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        # Not shown: it may be a secret with a typing error.
        raise InvalidArgument(
            "a signing secret must be base64, with or without 'whsec_' before it, as in "
            '"whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()'
        )
    return key
