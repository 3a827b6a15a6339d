"""Members of enumerations are found by their names in lower case, too."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from taquba import JobStatus


def test_a_member_is_found_in_lower_case() -> None:
    statuses: Any = JobStatus
    assert statuses.pending is JobStatus.PENDING
    assert JobStatus("pending") is JobStatus.PENDING
    assert list(JobStatus.__members__) == ["PENDING", "SCHEDULED", "CLAIMED", "DONE", "DEAD"]
    assert pickle.loads(pickle.dumps(JobStatus.PENDING)) is JobStatus.PENDING


def test_a_name_that_no_member_has_is_refused() -> None:
    statuses: Any = JobStatus
    with pytest.raises(AttributeError, match="JobStatus has no member 'lost'"):
        _ = statuses.lost
