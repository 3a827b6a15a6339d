from __future__ import annotations

import importlib.metadata
import importlib.resources
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
]

# What a program that only enqueues and works must not pay for, in start-up time or in memory.
HEAVY = {
    "_pytest",
    "azure",
    "boto3",
    "botocore",
    "httpx",
    "hypothesis",
    "numpy",
    "obstore",
    "opentelemetry",
    "pydantic",
    "pytest",
    "requests",
    "rich",
    "starlette",
    "typer",
    "unittest",
}


def test_installed_version_is_the_declared_one() -> None:
    assert importlib.metadata.version("taquba") == PROJECT["version"]


def test_type_information_is_shipped() -> None:
    assert importlib.resources.files("taquba").joinpath("py.typed").is_file()


@pytest.mark.parametrize("text", REQUIREMENTS)
def test_every_dependency_has_a_lower_bound(text: str) -> None:
    operators = {part.operator for part in Requirement(text).specifier}
    assert operators & {">=", "=="}


def test_pytest_plugin_is_registered() -> None:
    points = importlib.metadata.distribution("taquba").entry_points.select(group="pytest11")
    assert {point.name: point.value for point in points} == {"taquba": "taquba.testing._plugin"}


def test_importing_taquba_stays_light() -> None:
    program = "import sys, taquba; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    assert HEAVY.isdisjoint(result.stdout.split())
