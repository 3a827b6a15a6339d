from __future__ import annotations

import pytest

from tests.conformance.suite import StoreConformance
from tests.servers.faulty_s3 import FaultyGCS


class TestGCS(StoreConformance):
    """On a server of our own, which knows what the client asks of Google Cloud Storage."""

    @pytest.fixture
    def url(self, gcs: FaultyGCS) -> str:
        return f"{gcs.root}/prefix"
