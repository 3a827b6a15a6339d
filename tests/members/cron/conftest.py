"""The same, with an owner that does not look into its inbox every second of the virtual clock."""

from __future__ import annotations

from typing import Any

import pytest

from taquba import InboxConfig
from taquba.testing import OpenQueue

_INBOX = InboxConfig(poll_interval=24 * 3600, idle_poll_interval=24 * 3600)


@pytest.fixture
async def open_queue(open_queue: OpenQueue) -> Any:
    async def open_one(*url: str, **options: Any) -> Any:
        return await open_queue(*url, inbox=_INBOX, **options)

    return open_one
