"""How the examination of a place is used from typed code."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from taquba import OwnerSigns
from taquba.doctor import Check, Contents, Diagnosis, examine


async def examined() -> None:
    diagnosis = await examine("s3://bucket/prefix", payload_url=Path("/payloads"))
    assert_type(diagnosis, Diagnosis)
    assert_type(diagnosis.ok, bool)
    assert_type(diagnosis.checks, tuple[Check, ...])
    assert_type(diagnosis.failures, tuple[Check, ...])
    assert_type(diagnosis.contents, Contents | None)
    assert_type(diagnosis.owner, OwnerSigns | None)
    for check in diagnosis.checks:
        assert_type(check.remedy, str | None)
        assert_type(check.round_trip_ms, float | None)
    await examine()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
