"""Objects in a local folder: files that are found by name, never through a link.

Everybody who may write to the folder can put things there that nobody asked for: links, folders,
pipes, names of any kind. Nothing here follows a link below the folder, and only regular files with
names that can be keys are objects.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from taquba._objects.folder import put_on_disk
from taquba._objects.left_alone import leave_alone
from taquba._objects.object_info import ObjectInfo

T = TypeVar("T")

_UNFINISHED: Final = "#"
"""What the name of a file has as long as it is being written."""

_DEEPEST: Final = 260
"""Folders below each other; no key has more parts."""

_ATTEMPTS: Final = 100
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not waiting for the other end, where it turns out to be a pipe.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_KEY: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff#]")
"""What no name of an object has: control characters, and what is not UTF-8."""


class FolderFiles:
    """The objects below a folder. Every method is blocking, and raises `OSError`."""

    def __init__(self, root: Path, *, fsync: bool) -> None:
        self._root = root
        self._fsync = fsync
        self._made = False

    def put(self, key: str, data: bytes) -> None:
        """Write a file, or replace it."""

        def write(folder: int, name: str) -> None:
            with self._unfinished(folder, name, data) as (unfinished, descriptor):
                if _is_there(name, folder):
                    # What is replaced is on disk; what replaces it must be, before it goes.
                    self._sync(descriptor)
                os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
                self._sync(descriptor)

        self._in_folder_of(key, write)

    def create(self, key: str, data: bytes) -> bool:
        """Write a file unless one is there already; whether this one is there."""

        def write(folder: int, name: str) -> bool:
            with self._unfinished(folder, name, data) as (unfinished, descriptor):
                try:
                    os.link(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
                except FileExistsError:
                    # Perhaps written a moment ago, and not on disk yet.
                    return self._content(folder, name, sync=True) == data
                self._sync(descriptor)
            return True

        return self._in_folder_of(key, write)

    def get(self, key: str) -> bytes | None:
        """The content of a file, or None where there is none."""
        *parts, name = key.split("/")
        try:
            with self._folder(parts) as folder:
                return self._content(folder, name)
        except FileNotFoundError:
            return None

    def move(self, key: str, to: str) -> None:
        """Rename a file, over what is there; one that is gone is fine."""
        *parts, name = key.split("/")

        def move(folder: int, new_name: str) -> None:
            with self._folder(parts) as source:
                _check_regular(os.lstat(name, dir_fd=source).st_mode, key)
                os.replace(name, new_name, src_dir_fd=source, dst_dir_fd=folder)
                self._sync(source)

        with contextlib.suppress(FileNotFoundError):
            # What is gone does not need a place to go to.
            with self._folder(parts) as source:
                os.lstat(name, dir_fd=source)
            self._in_folder_of(to, move)
            self._prune(parts)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and folders that are empty afterwards; those that are gone are fine."""
        emptied: dict[tuple[str, ...], None] = {}
        failed: OSError | None = None
        for key in keys:
            *parts, name = key.split("/")
            try:
                with self._folder(parts) as folder:
                    os.unlink(name, dir_fd=folder)
                emptied[tuple(parts)] = None
            except FileNotFoundError:
                pass
            except OSError as error:
                # The others can be removed.
                failed = failed or error
        for folder_parts in emptied:
            self._prune(folder_parts)
        if failed is not None:
            raise failed

    def files(self, prefix: str, *, flat: bool = False) -> Generator[ObjectInfo]:
        """The files below a prefix, which is a folder, in no particular order."""
        top = [part for part in prefix.split("/") if part]
        folders = [top]
        while folders:
            parts = folders.pop()
            try:
                with self._folder(parts) as folder, os.scandir(folder) as entries:
                    for entry in entries:
                        path = [*parts, entry.name]
                        try:
                            info = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        if _UNFINISHED in entry.name and stat.S_ISREG(info.st_mode):
                            continue
                        if _NO_KEY.search(entry.name):
                            self._leave(path, "its name cannot be one of ours")
                        elif stat.S_ISDIR(info.st_mode) and not flat:
                            if len(path) < _DEEPEST:
                                folders.append(path)
                        elif stat.S_ISREG(info.st_mode):
                            changed = datetime.fromtimestamp(info.st_mtime, UTC)
                            yield ObjectInfo("/".join(path), info.st_size, changed)
                        else:
                            self._leave(path, "it is not a regular file")
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                self._leave(parts, "it is not a folder")
            except PermissionError:
                if parts == top:
                    raise
                self._leave(parts, "this user may not read it")

    def _leave(self, parts: Sequence[str], why: str) -> None:
        leave_alone("/".join(parts), str(self._root), why)

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Generator[int]:
        """A descriptor of a folder below the root, to which no link led."""
        current = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=current)
                try:
                    following = os.open(part, _FOLDER, dir_fd=current)
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
                    # What Linux says of a link here, other systems say in this way.
                    raise NotADirectoryError(errno.ENOTDIR, "Not a directory", part) from error
                os.close(current)
                current = following
            yield current
        finally:
            os.close(current)

    def _in_folder_of(self, key: str, work: Callable[[int, str], T]) -> T:
        """Do something in the folder of a key, which is made if it is missing."""
        self._make_root()
        *parts, name = key.split("/")
        done = self._repeated(parts, lambda folder: work(folder, name))
        for end in range(len(parts) - 1, -1, -1):
            with contextlib.suppress(FileNotFoundError), self._folder(parts[:end]) as folder:
                self._sync(folder)
        return done

    def _repeated(self, parts: Sequence[str], work: Callable[[int], T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                with self._folder(parts, make=True) as folder:
                    done = work(folder)
                    self._sync(folder)
                    return done
            except FileNotFoundError:
                # Whoever removed the last file of the folder has just removed the folder.
                if attempt == _ATTEMPTS or not self._root.is_dir():
                    raise

    @contextlib.contextmanager
    def _unfinished(self, folder: int, name: str, data: bytes) -> Generator[tuple[str, int]]:
        """A file with this content whose name says that it is not there yet; its descriptor."""
        while True:
            unfinished = f"{name}{_UNFINISHED}{secrets.token_hex(1)}"
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(unfinished, _NEW, 0o666, dir_fd=folder)
                break
        try:
            with open(descriptor, "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                yield unfinished, descriptor
        finally:
            with contextlib.suppress(OSError):
                os.unlink(unfinished, dir_fd=folder)

    def _content(self, folder: int, name: str, *, sync: bool = False) -> bytes:
        try:
            descriptor = os.open(name, _READ, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
                raise _not_regular(name) from error
            raise
        with open(descriptor, "rb", buffering=0) as file:
            _check_regular(os.fstat(descriptor).st_mode, name)
            data = file.read()
            if sync:
                self._sync(descriptor)
        return data

    def _make_root(self) -> None:
        if not self._made:
            self._root.mkdir(parents=True, exist_ok=True)
            if self._fsync:
                put_on_disk(self._root, Path(self._root.anchor))
            self._made = True

    def _sync(self, descriptor: int) -> None:
        if self._fsync:
            os.fsync(descriptor)

    def _prune(self, parts: Sequence[str]) -> None:
        """Remove a folder that is empty, and those above it that are empty then."""
        for end in range(len(parts), 0, -1):
            try:
                with self._folder(parts[: end - 1]) as above:
                    os.rmdir(parts[end - 1], dir_fd=above)
            except OSError:
                return


def _check_regular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        raise _not_regular(name)


def _not_regular(name: str) -> OSError:
    return OSError(errno.EINVAL, f"{name!r} is not a regular file")


def _is_there(name: str, folder: int) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True
