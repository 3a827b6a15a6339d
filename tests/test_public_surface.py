"""Freezes what each package exports: `tests/public_surface/<name>.txt`, one name per line.

A name added there is a promise to users; a name removed from there breaks their programs.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from distributions import DISTRIBUTIONS

SURFACES = Path(__file__).parent / "public_surface"
PACKAGES = [
    *(importlib.import_module(distribution.name) for distribution in DISTRIBUTIONS),
    # What other packages build on.
    importlib.import_module("taquba.cli"),
    importlib.import_module("taquba.extending"),
]
PACKAGE_NAMES = [package.__name__ for package in PACKAGES]

DOCUMENTED = {
    f"{package.__name__}.{name}": value
    for package in PACKAGES
    for name in package.__all__
    if inspect.isclass(value := getattr(package, name)) or inspect.isroutine(value)
}


@pytest.mark.parametrize("name", PACKAGE_NAMES)
def test_public_names_are_frozen(name: str) -> None:
    frozen = (SURFACES / f"{name}.txt").read_text("utf-8").splitlines()
    assert sorted(importlib.import_module(name).__all__) == sorted(frozen)


def test_names_that_are_imported_when_they_are_used_are_known_before() -> None:
    program = (
        "import sys, taquba\n"
        "assert not [name for name in sys.modules if name.startswith('taquba.')]\n"
        "assert set(taquba.__all__) <= set(dir(taquba))\n"
        "assert not hasattr(taquba, 'Qeue')\n"
        "from taquba import *\n"
        "assert Queue is taquba.Queue and run_worker.__module__ == 'taquba._worker.worker'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_frozen_surface_has_its_package() -> None:
    assert {path.name.removesuffix(".txt") for path in SURFACES.iterdir()} == set(PACKAGE_NAMES)


@pytest.mark.parametrize("path", DOCUMENTED)
def test_public_name_is_documented(path: str) -> None:
    value = DOCUMENTED[path]
    # `inspect.getdoc` would accept the docstring of a base class; a dataclass without one gets its
    # signature as docstring.
    assert value.__doc__
    assert not value.__doc__.startswith(f"{value.__name__}(")


def public_methods() -> list[str]:
    return sorted(
        f"{path}.{attribute}"
        for path, documented in DOCUMENTED.items()
        if inspect.isclass(documented)
        for attribute, value in vars(documented).items()
        if not attribute.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod))
    )


@pytest.mark.parametrize("path", public_methods())
def test_public_method_is_documented(path: str) -> None:
    class_path, _, attribute = path.rpartition(".")
    # A method that a base class documents needs no second docstring.
    assert inspect.getdoc(getattr(DOCUMENTED[class_path], attribute))
