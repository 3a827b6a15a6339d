"""Every ```python block of the READMEs and of docs/ runs here, in a process of its own.

- A block that goes on where the block before it ended has the line ``<!-- continues -->`` before
  its fence; both (and what the former continues) run as one program.
- A block with functions named ``test_...`` is run by pytest, as its reader would.
- ```console, ```sh and other blocks are not run.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from distributions import DISTRIBUTIONS, ROOT, Distribution

DOCUMENTS = [
    *(distribution.readme for distribution in DISTRIBUTIONS),
    *sorted((ROOT / "docs").glob("**/*.md")),
]
CONTINUES = "<!-- continues -->"
TIMEOUT_SECONDS = 120

# What the documentation tells its readers to set; with it pytest looks for no other configuration.
PYTEST_INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""


@dataclass(frozen=True, slots=True)
class Example:
    document: str
    line: int  # of the first line of code, from 1
    code: str  # starts with empty lines, so that tracebacks name the lines of the document

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def is_test(self) -> bool:
        return any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name.startswith("test_")
            for node in ast.parse(self.code).body
        )


def examples_of(text: str, document: str) -> list[Example]:
    lines = text.splitlines()
    found: list[Example] = []
    continues = False
    index = 0
    while index < len(lines):
        fence = re.match(r"\s*(`{3,})(\w*)", lines[index])
        if fence is None:
            if lines[index].strip():
                continues = lines[index].strip() == CONTINUES
            index += 1
            continue
        ticks, language = fence.groups()
        first = index + 1
        last = first
        while last < len(lines) and lines[last].strip() != ticks:
            last += 1
        if last == len(lines):
            raise ValueError(f"{document}:{index + 1}: the fence is never closed")
        if language == "python":
            code = textwrap.dedent("\n".join(lines[first:last])) + "\n"
            if continues and not found:
                raise ValueError(f"{document}:{index + 1}: no block to continue")
            before = found[-1].code if continues else ""
            padding = "\n" * (first - before.count("\n"))
            found.append(Example(document, first + 1, before + padding + code))
        continues = False
        index = last + 1
    return found


EXAMPLES = [
    example
    for path in DOCUMENTS
    for example in examples_of(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
]


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_example_runs(example: Example, tmp_path: Path) -> None:
    # The name starts with test_ so that pytest takes it for a test module.
    program = tmp_path / f"test_{Path(example.document).stem}_{example.line}.py"
    program.write_text(example.code, "utf-8")
    command = [sys.executable, "-W", "error"]
    if example.is_test:
        (tmp_path / "pytest.ini").write_text(PYTEST_INI, "utf-8")
        command += ["-m", "pytest", "-q"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [*command, str(program)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{example} failed:\n{result.stdout}"


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda one: one.name)
def test_every_readme_shows_code(distribution: Distribution) -> None:
    readme = distribution.readme.relative_to(ROOT).as_posix()
    assert any(example.document == readme for example in EXAMPLES)


DOCUMENT = """\
# Title

```python
a = 1
```

Some words.

<!-- continues -->
```python
b = a
```

```console
$ not run
```

1. A list:

   ```python
   def test_it(): ...
   ```
"""


def test_blocks_are_found_with_their_lines() -> None:
    first, second, third = examples_of(DOCUMENT, "x.md")
    assert [str(first), str(second), str(third)] == ["x.md:4", "x.md:11", "x.md:21"]
    assert second.code.splitlines()[3] == "a = 1"
    assert second.code.splitlines()[10] == "b = a"
    assert third.code.splitlines()[20] == "def test_it(): ..."
    assert [first.is_test, second.is_test, third.is_test] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\na = 1\n", "x.md:1: the fence is never closed"),
        (f"{CONTINUES}\n```python\na = 1\n```\n", "x.md:2: no block to continue"),
    ],
)
def test_broken_documents_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        examples_of(text, "x.md")
