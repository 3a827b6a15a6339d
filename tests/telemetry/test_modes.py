"""When telemetry is on. Global providers are set once per process: each program has its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest
from opentelemetry.metrics import MeterProvider

from taquba import InvalidArgument, InvalidArgumentType, Queue, Telemetry
from taquba.testing import OpenQueue

PRELUDE = """
import asyncio
import sys

from taquba import InvalidArgument, Queue, Telemetry

async def one_job(**options):
    async with Queue.open("memory://", **options) as queue:
        await queue.enqueue("q", b"")
        claim = await queue.claim("q")
        await queue.ack(claim)
        return dict(claim.headers), queue._owner.telemetry is not None

def loaded():
    return any(name.partition(".")[0] == "opentelemetry" for name in sys.modules)

def meters():
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    return MeterProvider([reader]), reader

def emitted(reader):
    data = reader.get_metrics_data()
    return {} if data is None else {
        metric.name: metric.data.data_points
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
"""

NOT_INSTALLED = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(program: str, *flags: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", *flags, "-c", PRELUDE + textwrap.dedent(program)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_by_default_nothing_is_imported_or_emitted_until_something_is_configured() -> None:
    run(
        """
        assert asyncio.run(one_job()) == ({}, False)
        assert not loaded()

        import opentelemetry.metrics
        import opentelemetry.trace

        assert asyncio.run(one_job()) == ({}, False)
        opentelemetry.metrics.set_meter_provider(opentelemetry.metrics.NoOpMeterProvider())
        opentelemetry.trace.set_tracer_provider(opentelemetry.trace.NoOpTracerProvider())
        assert asyncio.run(one_job()) == ({}, False)
        """
    )


def test_by_default_a_configured_meter_provider_gets_metrics_only() -> None:
    run(
        """
        from opentelemetry import metrics

        provider, reader = meters()
        metrics.set_meter_provider(provider)
        assert asyncio.run(one_job(telemetry=False)) == ({}, False)
        assert not emitted(reader)
        assert asyncio.run(one_job()) == ({}, True)
        [point] = emitted(reader)["taquba.jobs.completed"]
        assert point.value == 1
        """
    )


def test_by_default_a_configured_tracer_provider_gets_traces_only() -> None:
    run(
        """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        headers, on = asyncio.run(one_job())
        assert on
        assert list(headers) == ["traceparent"]

        # A meter provider of one's own leaves the choice for the traces as it is.
        provider, reader = meters()
        headers, _ = asyncio.run(one_job(telemetry=provider))
        assert list(headers) == ["traceparent"]
        assert emitted(reader)["taquba.commits"]
        headers, _ = asyncio.run(
            one_job(telemetry=Telemetry(meter_provider=provider, tracer_provider=False))
        )
        assert headers == {}
        """
    )


def test_true_reports_to_providers_that_are_configured_later() -> None:
    run(
        """
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.trace import TracerProvider

        async def main():
            async with Queue.open("memory://early", telemetry=True) as early:
                await early.enqueue("q", b"")
                claim = await early.claim("q")
                assert claim.headers == {}

                provider, reader = meters()
                metrics.set_meter_provider(provider)
                trace.set_tracer_provider(TracerProvider())
                await early.enqueue("q", b"")
                claim = await early.claim("q")
                assert list(claim.headers) == ["traceparent"]
                async with Queue.open("memory://late", telemetry=True) as late:
                    await late.enqueue("q", b"")
                    found = emitted(reader)
                    [sent, later] = found["messaging.client.sent.messages"]
                    assert (sent.value, later.value) == (1, 1)
                    # The gauges, too, know both stores.
                    depths = found["taquba.queue.depth"]
                    stores = {point.attributes["taquba.store"] for point in depths}
                    assert stores == {"memory://early", "memory://late"}

        asyncio.run(main())
        """
    )


def test_without_opentelemetry_a_queue_works_and_asking_for_it_names_the_extra() -> None:
    run(
        NOT_INSTALLED
        + """
class Provider:
    def get_meter(self, *args):
        raise AssertionError("not to be used")

for off in (None, False, Telemetry(), Telemetry(meter_provider=False)):
    assert asyncio.run(one_job(telemetry=off)) == ({}, False)
for on in (True, Provider(), Telemetry(tracer_provider=True)):
    try:
        asyncio.run(one_job(telemetry=on))
    except InvalidArgument as error:
        assert "taquba[otel]" in str(error), error
        assert "telemetry=False" in str(error), error
    else:
        raise AssertionError(on)
assert not loaded()
""",
        "-W",
        "error",
    )


def test_a_provider_that_cannot_be_loaded_leaves_automatic_telemetry_off() -> None:
    run(
        """
        import logging
        import os

        os.environ["OTEL_PYTHON_METER_PROVIDER"] = "no-such-provider"
        logging.disable()
        import opentelemetry.metrics

        assert asyncio.run(one_job()) == ({}, False)
        try:
            asyncio.run(one_job(telemetry=True))
        except InvalidArgument as error:
            assert "cannot be used" in str(error), error
        else:
            raise AssertionError("not refused")
        """
    )


def test_a_forked_child_reports_nothing_of_its_parent_s_stores() -> None:
    run(
        """
        import os

        async def main():
            provider, reader = meters()
            async with Queue.open("memory://", telemetry=provider) as queue:
                await queue.enqueue("q", b"")
                assert "taquba.queue.depth" in emitted(reader)
                child = os.fork()
                if child == 0:
                    os._exit("taquba.queue.depth" in emitted(reader))
                assert os.waitpid(child, 0)[1] == 0

        asyncio.run(main())
        """
    )


@pytest.mark.parametrize("value", ["on", 1, object(), MeterProvider.get_meter])
def test_what_is_no_provider_is_refused_at_once(value: Any) -> None:
    with pytest.raises(InvalidArgumentType, match="telemetry must be a MeterProvider"):
        Queue.open("memory://", telemetry=value)


@pytest.mark.parametrize("name", ["meter_provider", "tracer_provider"])
def test_a_telemetry_object_names_the_wrong_provider(name: str) -> None:
    with pytest.raises(InvalidArgumentType, match=f"{name} must be .* not 'on'"):
        Telemetry(**{name: "on"})  # type: ignore[arg-type]


async def test_a_class_in_place_of_a_provider_is_refused(open_queue: OpenQueue) -> None:
    with pytest.raises(InvalidArgument, match="provider cannot be used"):
        await open_queue(telemetry=MeterProvider)
