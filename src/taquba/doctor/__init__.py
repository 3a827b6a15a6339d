"""Test whether a location can hold a store, and find out what it contains.

    diagnosis = await examine("s3://bucket/prefix")
    for check in diagnosis.checks:
        print(check.name, check.ok, check.detail, check.remedy or "")

`examine` writes to its own prefix (a folder) below the location and removes its objects again. It
does not disturb the owner of a store.

The modules, top to bottom; each uses only those below it:

    _examine    the examination: test the store, check the disk, read the contents
    _contents   the contents of a location, and whether an owner seems to be running
    _folder     checks of a local folder: its disk, its file system, whether fsync works
    _log        the check of a store's write-ahead log; by reading only
    _requests   checks of an object store, or of a folder that serves as one, by requests
    _diagnosis  the result of an examination
"""

from taquba.doctor._diagnosis import Check, Contents, Diagnosis
from taquba.doctor._examine import examine

__all__ = ["Check", "Contents", "Diagnosis", "examine"]
