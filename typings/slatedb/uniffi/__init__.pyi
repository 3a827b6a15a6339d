# The part of SlateDB's binding that taquba uses. The binding is generated and ships no type
# information: its constructors are not annotated, and its `Error` is defined twice in a way that
# hides from type checkers that it is an exception. `make types` compares these stubs with the
# installed binding.

import enum
from typing import final

@final
class CloseReason(enum.Enum):
    CLEAN = 0
    FENCED = 1
    PANIC = 2
    UNKNOWN = 3

@final
class FlushType(enum.Enum):
    MEM_TABLE = 0
    WAL = 1

@final
class SstBlockSize(enum.Enum):
    BLOCK16_KIB = 4

@final
class IsolationLevel(enum.Enum):
    SNAPSHOT = 0
    SERIALIZABLE_SNAPSHOT = 1

class Error(Exception):
    class Transaction(Error):
        message: str
        def __init__(self, message: str) -> None: ...

    class Closed(Error):
        reason: CloseReason
        message: str
        def __init__(self, reason: CloseReason, message: str) -> None: ...

    class Unavailable(Error):
        message: str
        def __init__(self, message: str) -> None: ...

    class Invalid(Error):
        message: str
        def __init__(self, message: str) -> None: ...

    class Data(Error):
        message: str
        def __init__(self, message: str) -> None: ...

    class Internal(Error):
        message: str
        def __init__(self, message: str) -> None: ...

@final
class ObjectStoreType(enum.Enum):
    S3 = 0
    AZURE = 1
    GCS = 2
    LOCAL = 3
    IN_MEMORY = 4

class FlushOptions:
    flush_type: FlushType
    def __init__(self, *, flush_type: FlushType) -> None: ...

class KeyRange:
    start: bytes | None
    start_inclusive: bool
    end: bytes | None
    end_inclusive: bool
    def __init__(
        self, *, start: bytes | None, start_inclusive: bool, end: bytes | None, end_inclusive: bool
    ) -> None: ...

class KeyValue:
    key: bytes
    value: bytes
    seq: int
    create_ts: int
    expire_ts: int | None

class DbStatus:
    durable_seq: int
    close_reason: CloseReason | None

class ObjectStore:
    @classmethod
    def resolve(cls, url: str) -> ObjectStore: ...

class ObjectStoreBuilder:
    def __init__(self, store_type: ObjectStoreType) -> None: ...
    def with_config(self, key: str, value: str) -> None: ...
    def build(self) -> ObjectStore: ...

class Settings:
    @classmethod
    def default(cls) -> Settings: ...
    def set(self, key: str, value_json: str) -> None: ...
    def to_json_string(self) -> str: ...

class WriteBatch:
    # Generated as `ctypes.c_uint64`, but it holds a plain int.
    _handle: int
    def __init__(self) -> None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...

class WriteHandle:
    def seqnum(self) -> int: ...
    async def await_durable(self) -> None: ...

class DbIterator:
    async def next(self) -> KeyValue | None: ...
    async def next_batch(self, max: int) -> list[KeyValue]: ...
    async def seek(self, key: bytes) -> None: ...

class DbTransaction:
    async def get(self, key: bytes) -> bytes | None: ...
    async def put(self, key: bytes, value: bytes) -> None: ...
    async def delete(self, key: bytes) -> None: ...
    async def scan(self, range: KeyRange) -> DbIterator: ...
    async def commit(self) -> WriteHandle | None: ...
    async def rollback(self) -> None: ...

class Db:
    def status(self) -> DbStatus: ...
    async def begin(self, isolation_level: IsolationLevel) -> DbTransaction: ...
    async def get(self, key: bytes) -> bytes | None: ...
    async def scan(self, range: KeyRange) -> DbIterator: ...
    async def write(self, batch: WriteBatch) -> WriteHandle: ...
    async def flush(self) -> None: ...
    async def flush_with_options(self, options: FlushOptions) -> None: ...
    async def shutdown(self) -> None: ...

class MokaCacheOptions:
    max_capacity: int
    time_to_live: int | None
    time_to_idle: int | None
    def __init__(
        self, *, max_capacity: int, time_to_live: int | None, time_to_idle: int | None
    ) -> None: ...

class DbCache:
    @classmethod
    def new_moka_cache(cls, options: MokaCacheOptions) -> DbCache: ...
    @classmethod
    def new_split_cache(cls, block_cache: DbCache, meta_cache: DbCache) -> DbCache: ...

class MetricLabel:
    key: str
    value: str

class MetricValue:
    class COUNTER(MetricValue):
        def __getitem__(self, index: int) -> int: ...

class Metric:
    labels: list[MetricLabel]
    value: MetricValue

class DefaultMetricsRecorder:
    def __init__(self) -> None: ...
    def metrics_by_name(self, name: str) -> list[Metric]: ...

class DbReader:
    async def get(self, key: bytes) -> bytes | None: ...
    async def scan(self, range: KeyRange) -> DbIterator: ...
    async def shutdown(self) -> None: ...

class ReaderMode:
    class MANAGED_CHECKPOINT(ReaderMode):
        def __init__(self) -> None: ...

    class FOLLOW_LATEST(ReaderMode):
        def __init__(self) -> None: ...

class ReaderOptions:
    manifest_poll_interval_ms: int
    checkpoint_lifetime_ms: int
    max_memtable_bytes: int
    skip_wal_replay: bool
    object_store_max_retries: int | None
    def __init__(
        self,
        *,
        manifest_poll_interval_ms: int,
        checkpoint_lifetime_ms: int,
        max_memtable_bytes: int,
        skip_wal_replay: bool,
        object_store_max_retries: int | None = ...,
    ) -> None: ...

class DbReaderBuilder:
    def __init__(self, path: str, object_store: ObjectStore) -> None: ...
    def with_reader_mode(self, mode: ReaderMode) -> None: ...
    def with_options(self, options: ReaderOptions) -> None: ...
    async def build(self) -> DbReader: ...

class VersionedManifest:
    id: int
    writer_epoch: int
    replay_after_wal_id: int
    last_l0_seq: int

class RowEntry:
    seq: int

class WalRows:
    rows: list[RowEntry]
    last_consumed_wal_file_id: int

class SlateDbWalReaderOptions:
    def __init__(
        self,
        *,
        max_buffered_bytes: int = ...,
        max_fetch_tasks: int = ...,
        read_ahead_bytes: int = ...,
    ) -> None: ...

class SlateDbWalIterator:
    async def next(self) -> WalRows | None: ...

class SlateDbWalReader:
    @classmethod
    def with_options(
        cls, path: str, object_store: ObjectStore, options: SlateDbWalReaderOptions
    ) -> SlateDbWalReader: ...
    async def iterator(self, start_wal_file_id: int) -> SlateDbWalIterator: ...

class Admin:
    async def read_manifest(self, id: int | None) -> VersionedManifest | None: ...

class AdminBuilder:
    def __init__(self, path: str, object_store: ObjectStore) -> None: ...
    def build(self) -> Admin: ...

class DbBuilder:
    def __init__(self, path: str, object_store: ObjectStore) -> None: ...
    def with_settings(self, settings: Settings) -> None: ...
    def with_db_cache(self, db_cache: DbCache, db_cache_id: int) -> None: ...
    def with_sst_block_size(self, sst_block_size: SstBlockSize) -> None: ...
    def with_metrics_recorder(self, metrics_recorder: DefaultMetricsRecorder) -> None: ...
    async def build(self) -> Db: ...
