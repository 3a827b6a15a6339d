"""The object store that the storage engine works on."""

from __future__ import annotations

from typing import Final

from slatedb.uniffi import Error, ObjectStore, ObjectStoreBuilder, ObjectStoreType

from taquba._model.errors import StoreError
from taquba._model.redaction import without_secrets
from taquba._objects.location import StoreLocation, make_folder

_shared_memory: Final[dict[str, ObjectStore]] = {}


def connect_engine(location: StoreLocation, *, read_only: bool = False) -> ObjectStore:
    """The object store that holds a location. Makes a missing local folder to write to."""
    if location.folder is not None:
        if not read_only:
            make_folder(location.folder)
        builder = ObjectStoreBuilder(ObjectStoreType.LOCAL)
        builder.with_config("local_path", str(location.folder))
        return builder.build()
    if location.bucket is not None:
        try:
            return ObjectStore.resolve(f"{location.scheme}://{location.bucket}")
        except Error as error:
            raise StoreError(f"{location.url}: {error}", permanent=True) from without_secrets(error)
    name = location.url.removeprefix("memory://")
    if not name:
        return ObjectStore.resolve("memory:///")
    if name not in _shared_memory:
        _shared_memory[name] = ObjectStore.resolve("memory:///")
    return _shared_memory[name]
