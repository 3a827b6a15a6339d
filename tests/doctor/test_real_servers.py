"""Servers of other people, which do what a store needs, pass the examination."""

from __future__ import annotations

import uuid

import pytest

from taquba import Queue, StoreError
from taquba.doctor import examine
from tests.servers.stores import AzureServer, S3Server


@pytest.fixture(params=["s3_server", "azure_server"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    server: S3Server | AzureServer = request.getfixturevalue(request.param)
    for name, value in server.environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    return f"{server.root}/{uuid.uuid4().hex}"


async def test_they_pass(url: str) -> None:
    diagnosis = await examine(url)
    assert diagnosis.failures == ()
    assert diagnosis.contents == "nothing"
    async with Queue.open(url) as owner:
        await owner.enqueue("q", b"1")
        diagnosis = await examine(url)
        assert diagnosis.failures == ()
        assert diagnosis.contents == "store"
        await owner.enqueue("q", b"2")


async def test_a_bucket_that_is_not_there_is_named(url: str) -> None:
    missing = url.replace("taquba-test", "taquba-missing")
    diagnosis = await examine(missing)
    assert [check.name for check in diagnosis.checks] == ["reach"]
    assert "taquba-missing" in diagnosis.checks[0].detail
    with pytest.raises(StoreError, match="there is no bucket") as caught:
        await Queue.open(missing)
    assert caught.value.permanent
