"""The maps in the docstrings of packages are true: all modules, and imports that run downward."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCES = Path(__file__).resolve().parent.parent / "src"

_LINE = re.compile(r"^    (?P<names>\w+(?:, \w+)*)(?: {2,}\S.*)?$")
"""A line of a map: the modules of one layer, then what they hold."""


class Package(NamedTuple):
    """A package whose docstring is its map."""

    name: str
    folder: Path

    def map(self) -> dict[str, int]:
        """The layer of each module that the map names, 0 at the top."""
        docstring = ast.get_docstring(_parsed(self.folder / "__init__.py"), clean=False) or ""
        lines = [found for line in docstring.splitlines() if (found := _LINE.match(line))]
        return {
            name: layer for layer, line in enumerate(lines) for name in line["names"].split(", ")
        }

    def modules(self) -> dict[str, list[Path]]:
        """The files behind each name directly below the package."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.folder.iterdir()):
            if path.suffix == ".py" and path.stem != "__init__":
                found[path.stem] = [path]
            elif (path / "__init__.py").exists():
                found[path.name] = sorted(path.rglob("*.py"))
        return found


def packages(sources: Path) -> Iterator[Package]:
    """Every package that holds modules."""
    for init in sorted(sources.rglob("__init__.py")):
        package = Package(".".join(init.parent.relative_to(sources).parts), init.parent)
        if package.modules():
            yield package


def problems(package: Package) -> list[str]:
    """Where a package and its map disagree."""
    layers, modules = package.map(), package.modules()
    found = [f"{package.name}: the map does not name {name}" for name in modules.keys() - layers]
    found += [
        f"{package.name}: the map names {name}, which is gone" for name in layers.keys() - modules
    ]
    for name in modules.keys() & layers:
        for path in modules[name]:
            for line, imported in _imports(path, package.name):
                if imported != name and imported in layers and layers[imported] <= layers[name]:
                    found.append(
                        f"{package.name}: {path.name}:{line} imports upward: {name} -> {imported}"
                    )
    return sorted(found)


def _imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """What a file imports of a package: line, and name of the module directly below it."""
    prefix = f"{package}."
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            # What is imported from the package itself may be a module, or a name of its top level.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith(prefix):
                yield node.lineno, name.removeprefix(prefix).partition(".")[0]


def _parsed(path: Path) -> ast.Module:
    text = path.read_text("utf-8")
    try:
        return ast.parse(text)
    except SystemError:
        # Python 3.11 counts the depth of all threads together, and one may show a traceback.
        return ast.parse(text)


@pytest.mark.parametrize("package", list(packages(SOURCES)), ids=lambda package: package.name)
def test_the_map_of_a_package_is_true(package: Package) -> None:
    assert problems(package) == []


def test_the_design_page_has_the_layers_of_the_map() -> None:
    page = (SOURCES.parent / "docs" / "design.md").read_text("utf-8")
    on_the_page = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    on_the_map = Package("taquba", SOURCES / "taquba").map()
    assert on_the_page == [name for name in on_the_map if name in on_the_page]
    assert set(on_the_page) == {name for name in on_the_map if re.match(r"_[a-z]", name)}


def test_only_the_room_of_the_engine_imports_it() -> None:
    engine = SOURCES / "taquba" / "_engine"
    importing = {path.parent for path in SOURCES.rglob("*.py") if any(_imports(path, "slatedb"))}
    assert importing == {engine}


def _package(folder: Path, docstring: str, **modules: str) -> Package:
    folder.mkdir()
    (folder / "__init__.py").write_text(f'"""{docstring}"""\n')
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return Package(folder.name, folder)


def test_an_import_that_runs_upward_is_found(tmp_path: Path) -> None:
    package = _package(
        tmp_path / "room",
        "A room.\n\n    top     what people touch\n    bottom  what it stands on\n",
        top="from room import bottom\n",
        bottom="if TYPE_CHECKING:\n    from room.top import something\n",
    )
    assert problems(package) == ["room: bottom.py:2 imports upward: bottom -> top"]


def test_modules_of_one_layer_do_not_import_each_other(tmp_path: Path) -> None:
    package = _package(
        tmp_path / "room",
        "A room.\n\n    one, other  beside each other\n",
        one="import room.other\n",
        other="",
    )
    assert problems(package) == ["room: one.py:1 imports upward: one -> other"]


def test_a_module_that_the_map_does_not_name_is_found(tmp_path: Path) -> None:
    package = _package(tmp_path / "room", "A room.\n\n    known  here\n", known="", other="")
    assert problems(package) == ["room: the map does not name other"]


def test_a_name_on_the_map_whose_module_is_gone_is_found(tmp_path: Path) -> None:
    package = _package(
        tmp_path / "room", "A room.\n\n    known  here\n    gone   not there\n", known=""
    )
    assert problems(package) == ["room: the map names gone, which is gone"]
