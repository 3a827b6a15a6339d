"""Names of metrics and spans: OpenTelemetry's messaging conventions, and taquba's own.

https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Final, NamedTuple

SCOPE: Final = "taquba"
VERSION: Final = version("taquba")
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM: Final = "messaging.system"
QUEUE: Final = "messaging.destination.name"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
JOB_ID: Final = "messaging.message.id"
BATCH_SIZE: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"

STORE: Final = "taquba.store"
STATE: Final = "taquba.job.state"
OUTCOME: Final = "taquba.job.outcome"
ATTEMPT: Final = "taquba.job.attempt"
REQUEST: Final = "taquba.store.request"
COMPONENT: Final = "taquba.store.component"


class Operation(NamedTuple):
    """An operation, as the conventions call it."""

    name: str
    type: str


ENQUEUE: Final = Operation("enqueue", "send")
CLAIM: Final = Operation("claim", "receive")
ACK: Final = Operation("ack", "settle")
NACK: Final = Operation("nack", "settle")
SNOOZE: Final = Operation("snooze", "settle")
DEAD_LETTER: Final = Operation("dead_letter", "settle")
PROCESS: Final = Operation("process", "process")


def error_type(error: BaseException) -> str:
    """The class of an error, named by the module from which a package exports it."""
    kind = type(error)
    module = kind.__module__.partition("._")[0]
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
