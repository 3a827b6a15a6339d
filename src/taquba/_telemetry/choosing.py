"""Whether a queue reports to OpenTelemetry, which is imported only if it does."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from taquba._model.clock import Clock
from taquba._model.errors import InvalidArgument
from taquba._model.redaction import redact
from taquba._telemetry.settings import Telemetry

if TYPE_CHECKING:
    from taquba._telemetry.instrumentation import Instrumentation

_log: Final = logging.getLogger(__name__)


async def instrument(settings: Telemetry, url: str, clock: Clock) -> Instrumentation | None:
    """The instrumentation of a store at `url`, or None.

    Raises:
        InvalidArgument: Telemetry was requested and is not available.
    """
    if settings.off:
        return None
    # Importing OpenTelemetry reads dozens of files.
    return await asyncio.to_thread(_instrument, settings, redact(url), clock)


def _instrument(settings: Telemetry, store: str, clock: Clock) -> Instrumentation | None:
    try:
        from taquba._telemetry.instrumentation import Instrumentation

        return Instrumentation.choose(settings, store, clock)
    except ImportError as error:
        if settings.explicit:
            raise InvalidArgument(
                f"telemetry={settings!r} needs OpenTelemetry, which cannot be imported ({error}): "
                "install 'taquba[otel]', or pass telemetry=False"
            ) from error
        problem: Exception = error
    except Exception as error:
        if settings.explicit:
            raise InvalidArgument(
                f"the OpenTelemetry provider cannot be used ({error!r}): "
                "repair its configuration, or pass telemetry=False"
            ) from error
        problem = error
    _log.warning("telemetry stays off: %s", redact(str(problem)))
    return None
