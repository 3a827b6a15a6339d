"""Find out whether a location can hold a store, and what is there.

    diagnosis = await examine("s3://bucket/prefix")
    for check in diagnosis.checks:
        print(check.name, check.ok, check.detail, check.remedy or "")

It writes to a prefix (a folder) of its own below the location and removes what it wrote. The
owner of a store that is there is not disturbed.
"""

from taquba.doctor._diagnosis import Check, Contents, Diagnosis
from taquba.doctor._examine import examine

__all__ = ["Check", "Contents", "Diagnosis", "examine"]
