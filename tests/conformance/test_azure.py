from __future__ import annotations

import uuid

import pytest

from tests.conformance.suite import StoreConformance
from tests.servers.stores import AzureServer


class TestAzure(StoreConformance):
    @pytest.fixture
    def url(self, azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> str:
        for name, value in azure_server.environment(azure_server.endpoint).items():
            monkeypatch.setenv(name, value)
        return f"{azure_server.root}/{uuid.uuid4().hex}"
