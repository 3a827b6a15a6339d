from __future__ import annotations

import uuid

import pytest

from tests.conformance.suite import StoreConformance
from tests.servers.stores import S3Server


class TestS3(StoreConformance):
    @pytest.fixture
    def url(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
        for name, value in s3_server.environment(s3_server.endpoint).items():
            monkeypatch.setenv(name, value)
        return f"{s3_server.root}/{uuid.uuid4().hex}"
