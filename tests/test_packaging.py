from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from distributions import BY_NAME, DISTRIBUTIONS, ROOT, Distribution, import_name

TAQUBA = BY_NAME["taquba"]
MEMBERS = [one for one in DISTRIBUTIONS if one is not TAQUBA]

# What a program that only enqueues and works must not pay for, in start-up time or in memory.
HEAVY = {
    "_pytest",
    "azure",
    "boto3",
    "botocore",
    "django",
    "httpx",
    "hypothesis",
    "numpy",
    "opentelemetry",
    "pydantic",
    "pytest",
    "requests",
    "rich",
    "starlette",
    "typer",
    "unittest",
}

each_distribution = pytest.mark.parametrize(
    "distribution", DISTRIBUTIONS, ids=[one.name for one in DISTRIBUTIONS]
)
each_member = pytest.mark.parametrize("member", MEMBERS, ids=[one.name for one in MEMBERS])


def requirements(distribution: Distribution) -> list[Requirement]:
    """What it needs, and what its extras add."""
    extras = distribution.project.get("optional-dependencies", {}).values()
    return distribution.dependencies + [Requirement(text) for extra in extras for text in extra]


@each_distribution
def test_distribution_is_named_like_its_package(distribution: Distribution) -> None:
    name = distribution.project["name"]
    assert name == canonicalize_name(name)
    assert import_name(Requirement(name)) == distribution.name


@each_distribution
def test_installed_version_is_the_declared_one(distribution: Distribution) -> None:
    assert importlib.metadata.version(distribution.name) == distribution.project["version"]


@each_distribution
def test_all_versions_agree(distribution: Distribution) -> None:
    assert distribution.project["version"] == TAQUBA.project["version"]
    assert distribution.project["requires-python"] == TAQUBA.project["requires-python"]


@each_distribution
def test_every_dependency_has_a_lower_bound(distribution: Distribution) -> None:
    for requirement in requirements(distribution):
        operators = {part.operator for part in requirement.specifier}
        assert operators & {">=", "==", "~="}, str(requirement)


@each_member
def test_member_needs_the_taquba_it_is_released_with(member: Distribution) -> None:
    version = Version(member.project["version"])
    siblings = [one for one in requirements(member) if import_name(one) in BY_NAME]
    assert "taquba" in map(import_name, siblings)
    for sibling in siblings:
        # At least this version, and nothing that may break what it uses.
        assert str(sibling.specifier) == f"~={version}", str(sibling)


@each_member
def test_member_is_in_the_workspace(member: Distribution) -> None:
    workspace = TAQUBA.pyproject["tool"]["uv"]["workspace"]["members"]
    assert member.folder.relative_to(ROOT).as_posix() in workspace
    needed = {one.name for one in requirements(member) if import_name(one) in BY_NAME}
    sources = member.pyproject["tool"]["uv"]["sources"]
    assert sources == {name: {"workspace": True} for name in needed}


@each_distribution
def test_package_is_complete(distribution: Distribution) -> None:
    assert (distribution.package / "py.typed").is_file()
    assert distribution.project["description"]
    assert distribution.project["readme"] == "README.md"
    assert distribution.readme.read_text("utf-8").startswith(f"# {distribution.project['name']}\n")


@each_distribution
def test_licence_is_a_copy(distribution: Distribution) -> None:
    # An sdist would keep a link as one that leads nowhere.
    licence = distribution.folder / "LICENSE"
    assert not licence.is_symlink()
    assert licence.read_bytes() == (ROOT / "LICENSE").read_bytes()


@each_distribution
def test_exported_names_are_sorted(distribution: Distribution) -> None:
    names = importlib.import_module(distribution.name).__all__

    # Constants, then classes, then functions, as ruff sorts them.
    def place(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert list(names) == sorted(names, key=place)


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@each_distribution
def test_other_distributions_are_used_by_their_public_names_only(
    distribution: Distribution,
) -> None:
    for path in distribution.package.rglob("*.py"):
        for module in imported_modules(path):
            owner, *inside = module.split(".")
            if owner in BY_NAME and owner != distribution.name:
                private = [part for part in inside if part.startswith("_")]
                assert not private, f"{path.relative_to(ROOT)} imports {module}"


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
