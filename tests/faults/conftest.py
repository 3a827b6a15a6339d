from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.faults.support import FaultyStore
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server


@pytest.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(s3_server.endpoint, seed=1) as proxy:
        yield proxy


@pytest.fixture
def store(s3_server: S3Server, proxy: FaultyProxy) -> FaultyStore:
    return FaultyStore(s3_server, proxy)
