"""Store URLs: where a store lives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from taquba._model.errors import InvalidArgument, InvalidArgumentType, StoreError

_CLOUD_SCHEMES: Final = ("s3", "gs", "az")
_FORMS: Final = (
    "memory://, memory://name, file:///absolute/path, a plain path, "
    "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
)


class StoreLocation(NamedTuple):
    """A parsed store URL.

    Attributes:
        url: As the caller wrote it.
        folder: The folder of a local store, else None.
        scheme: ``s3``, ``gs`` or ``az`` of a cloud store, else empty.
        bucket: Bucket or container of a cloud store, else None.
        path: Where the database lives below the bucket.
    """

    url: str
    folder: Path | None = None
    scheme: str = ""
    bucket: str | None = None
    path: str = ""

    @property
    def retries(self) -> int:
        """How often the engine repeats a request that failed: the pauses grow to a second.

        Without a bound it would never say what is wrong. A bucket may be out of reach for half a
        minute, as long as operations wait for it, and its owner goes on afterwards.
        """
        return 10 if self.bucket is None else 30

    @classmethod
    def parse(cls, url: str | os.PathLike[str]) -> StoreLocation:
        if isinstance(url, os.PathLike):
            return cls._local(os.fspath(url), Path(url))
        if not isinstance(url, str):
            raise InvalidArgumentType(f"a store URL is a str or a path, not {url!r}")
        if not url:
            raise InvalidArgument(f"a store URL must not be empty; use {_FORMS}")
        if "://" not in url:
            return cls._local(url, Path(url))
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise InvalidArgument(f"{url!r} is not a store URL: {error}; use {_FORMS}") from None
        if parts.scheme == "memory":
            return cls(url)
        if parts.scheme == "file":
            absolute = parts.path.startswith("/") and parts.path.strip("/")
            if parts.netloc not in ("", "localhost") or not absolute:
                raise InvalidArgument(
                    f"a file URL holds an absolute path, as in file:///var/lib/app; got {url!r}"
                )
            return cls._local(url, Path(unquote(parts.path)))
        if parts.scheme not in _CLOUD_SCHEMES:
            raise InvalidArgument(f"{url!r} has an unknown scheme; use {_FORMS}")
        if not parts.netloc or not parts.path.strip("/"):
            raise InvalidArgument(
                f"{url!r} needs a bucket and a prefix, as in {parts.scheme}://bucket/prefix"
            )
        return cls(url, None, parts.scheme, parts.netloc, parts.path.strip("/"))

    @classmethod
    def _local(cls, url: str, folder: Path) -> StoreLocation:
        return cls(url, folder.expanduser().absolute())

    def beside(self, suffix: str) -> StoreLocation:
        """The location whose last part has `suffix` appended: a neighbour, not a part of it."""
        if self.folder is not None:
            folder = self.folder.parent / (self.folder.name + suffix)
            return StoreLocation(str(folder), folder)
        if self.bucket is None:
            name = self.url.removeprefix("memory://")
            return StoreLocation(f"{self.url}{suffix}" if name else self.url)
        return self._replace(url=self.url.rstrip("/") + suffix, path=self.path + suffix)

    def check_shared(self) -> None:
        """Refuse a location that nobody else can name.

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


def make_folder(folder: Path) -> None:
    """Make a folder to write to; refuses what cannot be one.

    Raises:
        StoreError: It cannot be made, read or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the store folder {folder}: {error.strerror}; "
            "choose a folder that this user may write",
            permanent=True,
        ) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StoreError(
            f"no permission to read and write the store folder {folder}; "
            "change its owner or mode, or choose another folder",
            permanent=True,
        )
