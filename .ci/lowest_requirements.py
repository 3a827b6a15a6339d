"""Print pip constraints that pin every declared dependency to its lower bound."""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

project = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))["project"]
for text in project["dependencies"]:
    requirement = Requirement(text)
    [lower] = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
    print(f"{requirement.name}=={lower}")
