from __future__ import annotations

import pytest

from tests.servers.faulty_s3 import FaultyS3
from tests.store.oddly import Odd


@pytest.fixture
def odd(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Odd:
    """Single odd answers of `s3`."""
    del s3
    return Odd(monkeypatch)
