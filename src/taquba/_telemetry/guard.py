"""Telemetry must not break what it observes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from taquba._model.ending import ends_program
from taquba._model.redaction import without_secrets

_log: Final = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_reported: set[str] = set()


def guarded(function: Callable[P, T]) -> Callable[P, T | None]:
    """Turn an error of `function`, or of the provider it calls, into a log record and None.

    The first one is a warning. Later ones, which may come with every job, have the level DEBUG.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            # This includes a panic of an exporter written in Rust: the caller may be the store's
            # writer.
            if ends_program(error):
                raise
            name = function.__qualname__
            level = logging.DEBUG if name in _reported else logging.WARNING
            _reported.add(name)
            _log.log(level, "telemetry failed in %s", name, exc_info=without_secrets(error))
            return None

    return call
