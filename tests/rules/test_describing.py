"""Texts about exceptions and values, whatever their own methods do."""

from __future__ import annotations

from typing import Any

import pytest

from taquba import PermanentFailure
from taquba._model.describing import MAX_ERROR_TEXT, bounded, describe, shown


class Panic(BaseException):
    """Such as extensions written in Rust raise."""


class Odd(Exception):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def __str__(self) -> str:
        if issubclass(type(self.answer), BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]

    __repr__ = __str__


class Tricky(str):
    """A text none of whose methods can be relied on."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __len__(self) -> int:
        raise RuntimeError

    def __getitem__(self, item: object) -> str:
        raise RuntimeError

    def __format__(self, spec: str) -> str:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


class Anonymous(type):
    @property
    def __name__(cls) -> str:
        raise RuntimeError


class Elusive(Exception, metaclass=Anonymous):
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError


def test_an_error_is_its_type_and_its_message() -> None:
    assert describe(ValueError("no such user")) == "ValueError: no such user"
    assert describe(ValueError()) == "ValueError"
    assert describe("all is said") == "all is said"
    assert describe(PermanentFailure("gone"), bare=(PermanentFailure,)) == "gone"


@pytest.mark.parametrize("raised", [AttributeError("response"), Panic(), SystemExit(3)])
def test_an_error_whose_text_raises_is_told_by_its_type(raised: BaseException) -> None:
    said = describe(Odd(raised))
    assert said == f"Odd (without its message: __str__ raised {type(raised).__name__})"
    assert shown(Odd(raised)) == f"<Odd whose __repr__ raised {type(raised).__name__}>"


@pytest.mark.parametrize("answer", [None, 7, b"bytes"])
def test_an_error_whose_text_is_no_text_is_told_by_its_type(answer: object) -> None:
    assert describe(Odd(answer)) == "Odd (without its message: __str__ raised TypeError)"
    assert shown(Odd(answer)) == "<Odd whose __repr__ raised TypeError>"


def test_methods_of_what_is_told_are_not_relied_on() -> None:
    assert describe(Odd(Tricky("gone"))) == "Odd: gone"
    assert describe(Tricky("gone")) == "gone"
    assert shown(Odd(Tricky("gone"))) == "gone"
    assert describe(Elusive("gone"), bare=(KeyError,)) == "Elusive: gone"


def test_what_utf_8_cannot_hold_is_escaped() -> None:
    assert describe(OSError("no \udcff here")) == r"OSError: no \udcff here"


@pytest.mark.parametrize("text", ["x" * 100_000, "\udcff" * MAX_ERROR_TEXT])
def test_an_enormous_text_is_cut_and_says_so(text: str) -> None:
    said = describe(ValueError(text))
    assert len(said) == MAX_ERROR_TEXT
    assert said.endswith(f"... ({len(text) + len('ValueError: ')} characters)")
    assert bounded(said) == said
    assert len(shown(text)) < 300


def test_a_text_that_just_fits_is_kept() -> None:
    text = "x" * (MAX_ERROR_TEXT - len("ValueError: "))
    assert describe(ValueError(text)) == f"ValueError: {text}"
