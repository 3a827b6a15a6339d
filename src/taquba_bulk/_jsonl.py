"""Reading inputs from a file of JSON lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from taquba import InvalidArgument
from taquba.extending.typed import explain

T = TypeVar("T")

_BLOCK: Final = 1024 * 1024


class JsonLines(Generic[T]):
    """The lines of a file as values; may be iterated more than once. See `read_jsonl`."""

    def __init__(self, path: Path, kind: Any) -> None:
        """Internal: use `read_jsonl`."""
        self._path = path
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def __iter__(self) -> Iterator[T]:
        with open(self._path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield self._read(number, line)

    def __length_hint__(self) -> int:
        """How many lines there are, those that are empty included."""
        count = 0
        with open(self._path, "rb") as file:
            last = b"\n"
            while block := file.read(_BLOCK):
                count += block.count(b"\n")
                last = block
        return count + (not last.endswith(b"\n"))

    def _read(self, number: int, line: bytes) -> T:
        try:
            return self._adapter.validate_json(line)
        except ValidationError as error:
            raise InvalidArgument(f"{self._path}, line {number}: {explain(error)}") from None


@overload
def read_jsonl(path: str | os.PathLike[str]) -> JsonLines[Any]: ...
@overload
def read_jsonl(path: str | os.PathLike[str], type: type[T]) -> JsonLines[T]: ...
def read_jsonl(path: str | os.PathLike[str], type: Any = Any) -> JsonLines[Any]:
    """Inputs from a file that has one JSON value on each line; empty lines are skipped.

    The file is read as the batch goes on, so it may be larger than memory.

    Args:
        path: The file.
        type: What each value is, as pydantic reads it.

    Returns:
        An iterable. Iterating it raises `taquba.InvalidArgument`, which names the line, for one
        that does not fit.
    """
    return JsonLines(Path(path), type)
