"""Listing an S3 bucket that holds keys which the client library cannot read.

One key with a control character or an empty segment makes the library refuse the whole page that
it is on. So the library only signs the request for such a page, which is then sent and read here;
keys that no object of a store can have are left out.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from obstore import sign_async
from obstore.store import S3Store

from taquba._objects.limits import OPERATION_TIMEOUT
from taquba._objects.object_info import ObjectInfo

_VALID: Final = timedelta(seconds=60)
_IGNORED: Final = "x-id"
"""A parameter that servers ignore; it takes what the library appends to an endpoint."""

_ENTRY: Final = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
_NO_KEY: Final = re.compile(
    # As they are, or as references of XML.
    r"[\x00-\x1f\x7f]|&#(?:0*(?:\d|[12]\d|3[01]|127)|x0*(?:1?[\da-f]|7f));"
    r"|(?:^|/)\.{0,2}(?:/|$)",
    re.IGNORECASE,
)
"""Keys with a control character, or a segment that is empty, "." or ".."."""


class Page(NamedTuple):
    """A part of a listing.

    Attributes:
        entries: The objects whose keys can be read.
        passed_over: The keys that cannot.
    """

    entries: list[ObjectInfo]
    passed_over: list[str]


class SignedListing:
    """The objects of a bucket whose keys begin with a prefix, page by page."""

    def __init__(self, bucket: str, prefix: str, after: str | None) -> None:
        self._bucket = bucket
        self._query: dict[str, str] | None = {"list-type": "2", "prefix": prefix}
        if after is not None:
            self._query["start-after"] = after

    async def next_page(self) -> Page | None:
        """The next page, or None after the last one. May be called again when it failed.

        Raises:
            OSError: The store refused, or did not answer.
        """
        if self._query is None:
            return None
        listing = await asyncio.to_thread(_fetch, await self._sign(self._query))
        page = _read(listing)
        token = html.unescape(_text(listing, "NextContinuationToken"))
        self._query = self._query | {"continuation-token": token} if token else None
        return page

    async def _sign(self, query: Mapping[str, str]) -> str:
        # Where the bucket is, and how it is addressed, is what the library makes of its settings.
        url = await sign_async(S3Store(self._bucket), "GET", "x", _VALID)
        bucket = url.partition("?")[0].removesuffix("/x")
        signer = S3Store(
            self._bucket,
            endpoint=f"{bucket}?{urlencode({**query, _IGNORED: ''}, quote_via=quote)}",
            virtual_hosted_style_request=True,
        )
        return await sign_async(signer, "GET", "x", _VALID)


def _fetch(url: str) -> str:
    # Needed by nobody else, and slow to import.
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=OPERATION_TIMEOUT) as answer:
            return str(answer.read(), errors="replace")
    except HTTPError as error:
        with error:
            said = str(error.read(), errors="replace")
        # In the words of the client library, by which problems are told apart.
        raise OSError(f"response with status code: {error.code}: {said}") from None


def _read(listing: str) -> Page:
    if not listing.rstrip().endswith("</ListBucketResult>"):
        raise OSError("the store did not answer a listing with a whole one")
    page = Page([], [])
    for text in _ENTRY.findall(listing):
        key = _text(text, "Key")
        if _NO_KEY.search(key):
            page.passed_over.append(key)
        else:
            modified_at = datetime.fromisoformat(_text(text, "LastModified"))
            page.entries.append(
                ObjectInfo(html.unescape(key), int(_text(text, "Size")), modified_at)
            )
    return page


def _text(xml: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", xml, re.DOTALL)
    return found[1] if found else ""
