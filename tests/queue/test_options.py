"""Options that travel as keywords are those of the value that checks them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from taquba import EnqueueOptions, EnqueueRequest, OpenOptions, Queue
from taquba._queue.open_options import OpenSettings


@pytest.mark.parametrize(
    ("options", "checked"), [(EnqueueOptions, EnqueueRequest), (OpenOptions, OpenSettings.checked)]
)
def test_what_may_be_given_is_what_is_checked(options: type, checked: Callable[..., Any]) -> None:
    parameters = inspect.signature(checked).parameters.values()
    keywords = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert set(options.__annotations__) == keywords


async def test_a_misspelled_option_is_refused_by_its_name(queue: Queue) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'dely'"):
        await queue.enqueue("q", b"", dely=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'fsinc'"):
        Queue.open("memory://", fsinc=True)  # type: ignore[call-arg]
    assert await queue.list_queues() == []
