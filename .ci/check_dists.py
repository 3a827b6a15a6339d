"""Check that the built wheel and sdist hold what a user needs, and nothing else."""

import sys
import tarfile
import zipfile
from pathlib import Path

folder = Path(sys.argv[1])
[wheel] = folder.glob("*.whl")
[sdist] = folder.glob("*.tar.gz")
sources = {
    path.relative_to("src").as_posix()
    for path in Path("src/taquba").rglob("*")
    if path.suffix == ".py" or path.name == "py.typed"
}

with zipfile.ZipFile(wheel) as archive:
    in_wheel = set(archive.namelist())
with tarfile.open(sdist) as archive:
    # Every name starts with the folder "<name>-<version>/".
    in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}

problems = [f"{wheel.name} lacks {name}" for name in sorted(sources - in_wheel)]
problems += [
    f"{wheel.name} holds {name}" for name in sorted(in_wheel - sources) if ".dist-info/" not in name
]
if not any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel):
    problems.append(f"{wheel.name} lacks LICENSE")
wanted = {f"src/{name}" for name in sources}
wanted |= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
problems += [f"{sdist.name} lacks {name}" for name in sorted(wanted - in_sdist)]

if problems:
    sys.exit("\n".join(problems))
print(f"   ok: {wheel.name}, {sdist.name}")
