"""Store URLs: where a store lives."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from taquba._model.errors import InvalidArgument, InvalidArgumentType, StoreError
from taquba._model.redaction import redact

_CLOUD_SCHEMES: Final = ("s3", "gs", "az")
_FORMS: Final = (
    "memory://, memory://name, file:///absolute/path, a plain path, "
    "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
)

_ALMOST_A_URL: Final = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:|(?:s3|gs|az|memory|file)//)", re.I)
"""The beginning of a path that was meant as a URL: a folder of that name helps nobody."""

_BUCKET: Final = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
_ENDPOINTS: Final = {
    "s3": ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": (
        "AZURE_STORAGE_ENDPOINT",
        "AZURE_ENDPOINT",
        # A container belongs to its account.
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_USE_EMULATOR",
        "AZURITE_BLOB_STORAGE_URL",
    ),
}
_PARTITIONS: Final = ("cn-", "us-gov-", "us-iso")

PAYLOADS: Final = "-payloads"
INBOX: Final = "-inbox"
"""What is appended to a store's location for the places beside it."""

_MOST_LEVELS: Final = 255
"""Of a folder. Creating and removing a deeper one is beyond what Python's recursion allows."""

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]")


class StoreLocation(NamedTuple):
    """A parsed store URL.

    Attributes:
        url: As the caller wrote it.
        folder: The folder of a local store by its real path, otherwise None. The places beside it
            are found from there, whichever link led to it.
        scheme: ``s3``, ``gs`` or ``az`` of a cloud store, otherwise empty.
        bucket: Bucket or container of a cloud store, otherwise None.
        path: The path of the database below the bucket.
        endpoint: Whose buckets these are, as the environment says; a bucket of the same name at
            another endpoint is another one.
    """

    url: str
    folder: Path | None = None
    scheme: str = ""
    bucket: str | None = None
    path: str = ""
    endpoint: str = ""

    def __repr__(self) -> str:
        # An endpoint may hold credentials.
        return f"StoreLocation({redact(self.url)!r})"

    @property
    def retries(self) -> int:
        """How often the engine repeats a request that failed: the pauses grow to a second.

        Without a limit it would never report the problem. A bucket may be out of reach for half a
        minute, as long as operations wait for it, and its owner continues afterwards.
        """
        return 10 if self.bucket is None else 30

    @classmethod
    def parse(cls, url: str | os.PathLike[str]) -> StoreLocation:
        if isinstance(url, os.PathLike):
            url = os.fspath(url)
        if not isinstance(url, str):
            raise InvalidArgumentType(f"a store URL must be a str or a path, not {url!r}")
        if not url.strip():
            raise InvalidArgument(f"a store URL must not be empty; use {_FORMS}")
        if _UNPRINTABLE.search(url):
            raise InvalidArgument(f"a store URL must not have control characters; got {url!r}")
        if "://" not in url:
            if _ALMOST_A_URL.match(url):
                raise InvalidArgument(
                    f"{url!r} is neither a store URL nor a plain path; use {_FORMS}; a folder of "
                    "that name is given by its absolute path"
                )
            return cls._local(url, Path(url))
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise InvalidArgument(f"{url!r} is not a store URL: {error}; use {_FORMS}") from None
        if parts.scheme not in ("memory", "file", *_CLOUD_SCHEMES):
            raise InvalidArgument(f"{url!r} has an unknown scheme; use {_FORMS}")
        if not url.startswith(f"{parts.scheme}://") or url != url.strip():
            raise InvalidArgument(
                f"a store URL must begin with {parts.scheme}://, in lower case, without blanks "
                f"around it; got {url!r}"
            )
        if parts.scheme == "memory":
            return cls(url)
        if "?" in url or "#" in url:
            raise InvalidArgument(
                f"a store URL must not contain ? or #; got {url!r}: settings come from the "
                "environment, and a path with these characters is given without file://"
            )
        if parts.scheme == "file":
            absolute = parts.path.startswith("/") and parts.path.strip("/")
            if parts.netloc not in ("", "localhost") or not absolute:
                raise InvalidArgument(
                    f"a file URL must have an absolute path, as in file:///var/lib/app; got {url!r}"
                )
            return cls._local(url, Path(unquote(parts.path)))
        path = parts.path.strip("/")
        if not parts.netloc or not path:
            raise InvalidArgument(
                f"{url!r} needs a bucket and a prefix, as in {parts.scheme}://bucket/prefix"
            )
        if "@" in parts.netloc:
            # Not shown: it may be a password.
            raise InvalidArgument(
                f"a store URL must not have credentials: set them in the environment; use {_FORMS}"
            )
        if not _BUCKET.fullmatch(parts.netloc):
            raise InvalidArgument(f"{parts.netloc!r} in {url!r} is not the name of a bucket")
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise InvalidArgument(f"the prefix in {url!r} has an empty part, or '.' or '..'")
        return cls(url, None, parts.scheme, parts.netloc, path, _endpoint(parts.scheme))

    @classmethod
    def _local(cls, url: str, folder: Path) -> StoreLocation:
        try:
            real = folder.expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:
            # Links that lead to each other, or a home folder that nobody has.
            raise InvalidArgument(f"{url!r} leads to no folder: {error}") from None
        given = Path(os.path.abspath(folder.expanduser()))
        if given != real:
            _refuse_places_beside(given, real)
        return cls(url, real)

    def beside(self, suffix: str) -> StoreLocation:
        """The location whose last part has `suffix` appended: a neighbour, not a part of it."""
        if self.folder is not None:
            folder = self.folder.parent / (self.folder.name + suffix)
            return StoreLocation(str(folder), folder)
        if self.bucket is None:
            name = self.url.removeprefix("memory://")
            return StoreLocation(f"{self.url}{suffix}" if name else self.url)
        return self._replace(url=self.url.rstrip("/") + suffix, path=self.path + suffix)

    def for_payloads(self, payload_url: str | os.PathLike[str] | None) -> StoreLocation:
        """The location of this store's objects: the caller's choice, or beside the store."""
        return self.beside(PAYLOADS) if payload_url is None else StoreLocation.parse(payload_url)

    def check_shared(self) -> None:
        """Refuse a location that no other process can name.

        Raises:
            InvalidArgument: It is ``memory://``, a fresh one each time.
        """
        if self.url == "memory://":
            raise InvalidArgument(
                "a producer cannot reach the store memory://; give it a name, as in memory://name"
            )

    @property
    def in_memory(self) -> bool:
        """Whether the store is in this process, where nobody else can have it."""
        return self.folder is None and self.bucket is None


def _refuse_places_beside(link: Path, real: Path) -> None:
    """Refuse a link that has places of a store beside it, where they would not be found."""
    for suffix in (PAYLOADS, INBOX):
        astray, place = (path.with_name(path.name + suffix) for path in (link, real))
        if astray.is_dir() and astray.resolve() != place.resolve():
            raise InvalidArgument(
                f"{link} leads to {real}, but files of the store are beside the link: "
                f"move the content of {astray} to {place}, or remove it"
            )


def _endpoint(scheme: str) -> str:
    """The settings of the environment for the place of buckets, as the clients read them."""
    # Several name the same thing, and one process may set one of them and the next another.
    values = {os.environ.get(name, "").strip().rstrip("/") for name in _ENDPOINTS[scheme]}
    if scheme == "s3":
        # A name belongs to one bucket in all regions of a partition.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        values.add(next((name for name in _PARTITIONS if region.startswith(name)), ""))
    return " ".join(sorted(values - {""}))


def make_folder(folder: Path) -> None:
    """Create a folder to write to; refuses a path that cannot be one.

    Raises:
        StoreError: It cannot be created, read or written.
    """
    if len(folder.parts) > _MOST_LEVELS:
        raise StoreError(
            f"cannot create a store folder that is {len(folder.parts)} levels deep; choose a "
            "shorter path",
            permanent=True,
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot create the store folder {folder}: {error.strerror}; "
            "choose a folder that this user can write",
            permanent=True,
        ) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StoreError(
            f"no permission to read and write the store folder {folder}; "
            "change its owner or mode, or choose another folder",
            permanent=True,
        )
