"""Check that a distribution's wheel and sdist hold what a user needs, and nothing else.

python .ci/check_dists.py FOLDER NAME
"""

import sys
import tarfile
import zipfile
from pathlib import Path

from distributions import BY_NAME, ROOT

folder, distribution = Path(sys.argv[1]), BY_NAME[sys.argv[2]]
[wheel] = folder.glob(f"{distribution.name}-*.whl")
[sdist] = folder.glob(f"{distribution.name}-*.tar.gz")
sources = [
    path
    for path in distribution.package.rglob("*")
    if path.suffix == ".py" or path.name == "py.typed"
]

with zipfile.ZipFile(wheel) as archive:
    in_wheel = set(archive.namelist())
with tarfile.open(sdist) as archive:
    # Every name starts with the folder "<name>-<version>/".
    in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}

for_wheel = {path.relative_to(ROOT / "src").as_posix() for path in sources}
# The root's sdist keeps its src/ folder; the others' holds the package's files directly.
for_sdist = {path.relative_to(distribution.folder).as_posix() for path in sources}
for_sdist |= {"pyproject.toml", "README.md", "LICENSE"}
if distribution.folder == ROOT:
    for_sdist.add("CHANGELOG.md")
# The build backend's own additions.
added_to_sdist = {"PKG-INFO", ".gitignore"}

problems = [f"{wheel.name} lacks {name}" for name in sorted(for_wheel - in_wheel)]
problems += [
    f"{wheel.name} holds {name}"
    for name in sorted(in_wheel - for_wheel)
    if ".dist-info/" not in name
]
if not any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel):
    problems.append(f"{wheel.name} lacks LICENSE")
problems += [f"{sdist.name} lacks {name}" for name in sorted(for_sdist - in_sdist)]
problems += [f"{sdist.name} holds {name}" for name in sorted(in_sdist - for_sdist - added_to_sdist)]

if problems:
    sys.exit("\n".join(problems))
print(f"   ok: {wheel.name}, {sdist.name}")
