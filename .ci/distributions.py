"""The distributions of this repository: taquba at the root, the others inside src/.

python .ci/distributions.py names                  one import name per line
python .ci/distributions.py folder NAME            where its pyproject.toml is
python .ci/distributions.py needs NAME             import names of the distributions it needs
python .ci/distributions.py lowest NAME            pip constraints: every lower bound, exactly
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution and the one import package in it; `name` is the import package's."""

    name: str
    folder: Path

    @property
    def pyproject(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text("utf-8"))

    @property
    def project(self) -> dict[str, Any]:
        project: dict[str, Any] = self.pyproject["project"]
        return project

    @property
    def package(self) -> Path:
        return ROOT / "src" / self.name

    @property
    def readme(self) -> Path:
        return self.folder / "README.md"

    @property
    def dependencies(self) -> list[Requirement]:
        return [Requirement(text) for text in self.project["dependencies"]]

    @property
    def siblings(self) -> list[Distribution]:
        """The distributions of this repository that it depends on directly."""
        return [BY_NAME[name] for name in map(import_name, self.dependencies) if name in BY_NAME]

    def with_siblings(self) -> list[Distribution]:
        """It, and the distributions of this repository that come with it."""
        found = [self]
        for one in found:
            found += [sibling for sibling in one.siblings if sibling not in found]
        return found


def import_name(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name).replace("-", "_")


DISTRIBUTIONS = [
    Distribution("taquba", ROOT),
    *(
        Distribution(path.parent.name, path.parent)
        for path in sorted((ROOT / "src").glob("*/pyproject.toml"))
    ),
]
BY_NAME = {one.name: one for one in DISTRIBUTIONS}


def lowest(distribution: Distribution) -> list[str]:
    """Where several of the distributions set a bound, the highest counts."""
    bounds: dict[str, Version] = {}
    for one in distribution.with_siblings():
        for requirement in one.dependencies:
            if import_name(requirement) in BY_NAME:
                continue
            [bound] = [
                Version(part.version)
                for part in requirement.specifier
                if part.operator in (">=", "==", "~=")
            ]
            bounds[requirement.name] = max(bound, bounds.get(requirement.name, bound))
    return [f"{name}=={bound}" for name, bound in bounds.items()]


def main(question: str, *names: str) -> None:
    match question, [BY_NAME[name] for name in names]:
        case "names", []:
            answer = list(BY_NAME)
        case "folder", [one]:
            answer = [str(one.folder)]
        case "needs", [one]:
            answer = [sibling.name for sibling in one.with_siblings()[1:]]
        case "lowest", [one]:
            answer = lowest(one)
        case _:
            sys.exit(__doc__)
    print(*answer, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
