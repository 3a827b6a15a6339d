"""A candidate for the ownership of a store, as its place lets elections be held."""

from __future__ import annotations

from taquba._model.errors import InvalidArgument
from taquba._objects.election import Election
from taquba._objects.location import StoreLocation


def stand_for(location: StoreLocation, takeover_seconds: float) -> Election:
    """A candidate for the ownership of the store at a location.

    Args:
        location: Where the store is, or will be.
        takeover_seconds: For how long an elected process must give no sign of life before others
            take its place, where the operating system does not tell them.
    """
    # Each brings what only its kind of store needs.
    if location.folder is not None:
        from taquba._objects.election_in_folder import FolderElection

        return FolderElection(location, location.folder)
    if location.in_memory:
        raise InvalidArgument(
            f"{location.url} is in the memory of this process, which no other can share; "
            "use a folder or a bucket"
        )
    from taquba._objects.election_in_bucket import BucketElection

    return BucketElection(location, takeover_seconds)
