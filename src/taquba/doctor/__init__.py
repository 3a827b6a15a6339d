"""Find out whether a location can hold a store, and what is there.

    diagnosis = await examine("s3://bucket/prefix")
    for check in diagnosis.checks:
        print(check.name, check.ok, check.detail, check.remedy or "")

It writes to a prefix (a folder) of its own below the location and removes what it wrote. The
owner of a store that is there is not disturbed.

The modules, top to bottom; each uses only those below it:

    _examine    the examination: try the store out, look at the disk, look at what is there
    _contents   what is at a location, and whether an owner seems to be at work there
    _folder     checks of a local folder: its disk, its file system, whether fsync works
    _log        the check of a store's write-ahead log; by reading only
    _requests   checks of an object store, or of a folder that serves as one, by trying it out
    _diagnosis  what an examination found
"""

from taquba.doctor._diagnosis import Check, Contents, Diagnosis
from taquba.doctor._examine import examine

__all__ = ["Check", "Contents", "Diagnosis", "examine"]
