"""How a store is opened: the options that callers give, and the one value they become."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypedDict

from taquba._line.joining import MemberInfo
from taquba._model import validate
from taquba._model.clock import Clock, SystemClock
from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._model.options import InboxConfig, QueueConfig
from taquba._model.validate import Duration
from taquba._objects.location import StoreLocation
from taquba._telemetry.settings import Telemetry, as_telemetry

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

_OFFLOAD_THRESHOLD: Final = 256 * 1024
_MAX_OFFLOAD_THRESHOLD: Final = 64 * 1024 * 1024
"""The storage engine does not handle larger records well."""


class OwnerOptions(TypedDict, total=False):
    """How an owner opens its store, in a service too.

    Attributes:
        default_config: Settings of queues that `queue_configs` does not name.
        queue_configs: Settings per queue name.
        clock: The clock; the machine's by default.
        flush_interval: Minimum time between two flushes, seconds. None, the default, flushes as
            soon as a caller waits. On a cloud store a longer interval means fewer requests.
        fsync: For local folders: every acknowledged commit is on disk, safe from power loss; True
            by default. Without it, a commit survives only the end of the process.
        reaper_interval: Longest time between a lease's expiry and its job's return, seconds; 5 by
            default.
        scheduler_interval: How often, in seconds, the wall clock is checked while a scheduled job
            waits, in case it was set; 1 by default.
        heartbeat_interval: How often to write a sign of life, seconds; None, the default, means
            never.
        payload_offload_threshold: Largest payload, in bytes, that is kept in its job's record; a
            larger one becomes a separate object. 262,144 by default; None keeps all payloads in the
            records.
        payload_url: Where these objects, and those of `Queue.objects`, are kept; by default next
            to the store, in ``{url}-payloads``. Do not change it while jobs have their payload
            there.
        inbox: Take the requests that producers in other processes put into the store's inbox, in
            ``{url}-inbox``; see `taquba.Producer`. An `InboxConfig` has the settings. On a bucket
            this costs requests: by default one every 5 seconds while nothing arrives. It is off by
            default, and always on in a service.
        telemetry: OpenTelemetry metrics and traces. None, the default, emits them if the
            application has configured a global provider by now, True to the global providers in
            any case, False not at all. A `MeterProvider` gets the metrics; a `taquba.Telemetry`
            names both providers.
    """

    default_config: QueueConfig | None
    queue_configs: Mapping[str, QueueConfig] | None
    clock: Clock | None
    flush_interval: Duration | None
    fsync: bool
    reaper_interval: Duration
    scheduler_interval: Duration
    heartbeat_interval: Duration | None
    payload_offload_threshold: int | None
    payload_url: str | os.PathLike[str] | None
    inbox: InboxConfig | bool
    telemetry: Telemetry | MeterProvider | bool | None


class OpenOptions(OwnerOptions, total=False):
    """Options of `Queue.open`.

    Attributes:
        producer_socket: Listen on a unix socket for the producers on this machine, which then need
            not go through the store. Only this user can connect. The socket is in the store's
            folder, or for a bucket in a folder of this user.
        take_over: Fence an owner that lives. By default the opening raises `StoreOwned` instead,
            where a living owner is known.
    """

    producer_socket: bool
    take_over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSettings:
    """`OpenOptions` with their defaults, checked, in the units that the owner uses."""

    location: StoreLocation
    default_config: QueueConfig
    queue_configs: Mapping[str, QueueConfig] = field(repr=False)
    clock: Clock
    flush_seconds: float
    fsync: bool
    reaper_ms: int
    recheck_ms: int
    heartbeat_ms: int | None
    payload_threshold: int | None
    payload_location: StoreLocation
    inbox: InboxConfig | None
    producer_socket: bool
    take_over: bool
    telemetry: Telemetry
    about: MemberInfo | None
    """The name of this process among those that take part, if it has one already."""

    @classmethod
    def checked(
        cls,
        location: StoreLocation,
        *,
        default_config: QueueConfig | None = None,
        queue_configs: Mapping[str, QueueConfig] | None = None,
        clock: Clock | None = None,
        flush_interval: Duration | None = None,
        fsync: bool = True,
        reaper_interval: Duration = 5,
        scheduler_interval: Duration = 1,
        heartbeat_interval: Duration | None = None,
        payload_offload_threshold: int | None = _OFFLOAD_THRESHOLD,
        payload_url: str | os.PathLike[str] | None = None,
        inbox: InboxConfig | bool = False,
        producer_socket: bool = False,
        take_over: bool = False,
        telemetry: Telemetry | MeterProvider | bool | None = None,
    ) -> OpenSettings:
        """The settings for a store at a location.

        Raises:
            InvalidArgument: A value cannot be used.
        """
        if producer_socket and location.in_memory:
            raise InvalidArgument(
                f"{location.url} is in this process: no other one can use producer_socket"
            )
        return cls(
            location=location,
            default_config=_config(default_config, "default_config"),
            queue_configs=_configs(queue_configs),
            clock=_clock(clock),
            flush_seconds=(validate.optional_duration_ms(flush_interval, "flush_interval") or 0)
            / 1000,
            fsync=fsync,
            reaper_ms=validate.duration_ms(reaper_interval, "reaper_interval", minimum=1),
            recheck_ms=validate.duration_ms(scheduler_interval, "scheduler_interval", minimum=1),
            heartbeat_ms=validate.optional_duration_ms(
                heartbeat_interval, "heartbeat_interval", minimum=1
            ),
            payload_threshold=_threshold(payload_offload_threshold),
            payload_location=location.for_payloads(payload_url),
            inbox=_inbox(inbox, location),
            producer_socket=producer_socket,
            take_over=take_over,
            telemetry=as_telemetry(telemetry),
            about=None,
        )

    def config_of(self, queue: str) -> QueueConfig:
        """The settings of a queue."""
        return self.queue_configs.get(queue, self.default_config)


def _config(value: QueueConfig | None, name: str) -> QueueConfig:
    if value is None:
        return QueueConfig()
    validate.instance(value, QueueConfig, name)
    return value


def _configs(value: Mapping[str, QueueConfig] | None) -> dict[str, QueueConfig]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentType(f"queue_configs must map names to QueueConfig, not {value!r}")
    return {
        validate.queue_name(name): _config(config, f"queue_configs[{name!r}]")
        for name, config in value.items()
    }


def _inbox(value: InboxConfig | bool, location: StoreLocation) -> InboxConfig | None:
    if value is False:
        return None
    location.check_shared()
    if value is True:
        return InboxConfig()
    validate.instance(value, InboxConfig, "inbox")
    return value


def _threshold(value: int | None) -> int | None:
    if value is None:
        return None
    return validate.integer(value, "payload_offload_threshold", 0, _MAX_OFFLOAD_THRESHOLD)


def _clock(value: Clock | None) -> Clock:
    if value is None:
        return SystemClock()
    validate.instance(value, Clock, "clock")
    return value
