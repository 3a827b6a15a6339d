"""What the strict build of the documentation does not see: names, and the proofs it refers to."""

from __future__ import annotations

import ast
import html
import importlib
import re
from typing import NamedTuple

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from distributions import DISTRIBUTIONS, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
REFERENCE = ROOT / "docs/reference"

# [`test_something`](../tests/x/test_y.py), [`tests/x/test_y.py`](...), or the file alone.
LINK = re.compile(r"\[`(\w+)`\]\([./]*(tests/[\w/]+\.py)\)")
FILE = re.compile(r"tests/[\w/]+\.py")


class Proof(NamedTuple):
    """A test that a page refers to, or a file of tests."""

    path: str
    name: str | None

    def __str__(self) -> str:
        return self.path if self.name is None else f"{self.path}::{self.name}"


def proofs(text: str) -> set[Proof]:
    return {Proof(path, name) for name, path in LINK.findall(text)} | {
        Proof(path, None) for path in FILE.findall(text)
    }


PROOFS = sorted({proof for page in PAGES for proof in proofs(page.read_text("utf-8"))}, key=str)


@pytest.mark.parametrize("proof", PROOFS, ids=str)
def test_a_test_that_the_documentation_refers_to_exists(proof: Proof) -> None:
    tree = ast.parse((ROOT / proof.path).read_text("utf-8"))
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    if proof.name is not None:
        assert proof.name in names
    else:
        # A state machine's tests are made where its TestCase gets a name.
        assert any(found.startswith("test_") or found.endswith("Machine") for found in names)


def test_every_guarantee_names_its_proof() -> None:
    text = (ROOT / "docs/guarantees.md").read_text("utf-8")
    promises = [line for line in text.splitlines() if re.match(r"\| I\d+ \|", line)]
    numbers = [re.findall(r"\d+", line)[0] for line in promises]
    assert numbers == [str(number) for number in range(1, len(promises) + 1)]
    for promise in promises:
        assert proofs(promise), promise
    # What follows the table promises, too, up to where it says what is not guaranteed.
    promised, _, _ = text.partition("\n## Not guaranteed\n")
    for section in promised.split("\n## ")[1:]:
        assert proofs(section), section.splitlines()[0]


def test_every_public_name_of_taquba_is_in_the_reference() -> None:
    told = [
        name
        for page in REFERENCE.glob("*.md")
        for name in re.findall(r"^::: taquba\.(\w+)$", page.read_text("utf-8"), re.MULTILINE)
    ]
    modules = {"cli", "doctor", "extending", "testing"}
    names = importlib.import_module("taquba").__all__
    assert sorted(set(told) - modules) == sorted(names)
    assert len(told) == len(set(told))


@pytest.mark.parametrize("name", [one.name for one in DISTRIBUTIONS if one.name != "taquba"])
def test_every_distribution_is_in_the_reference(name: str) -> None:
    assert f"\n::: {name}\n" in (REFERENCE / f"{name}.md").read_text("utf-8")


@pytest.fixture(scope="module")
def reference_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a module as the site shows it, built alone."""
    place = tmp_path_factory.mktemp("docs")
    (place / "docs").mkdir()
    (place / "docs/index.md").write_text("::: taquba_jobs\n", "utf-8")
    settings = load_config(
        str(ROOT / "mkdocs.yml"),
        docs_dir=str(place / "docs"),
        site_dir=str(place / "site"),
        nav=["index.md"],
        hooks=[],
    )
    build(settings)
    return (place / "site/index.html").read_text("utf-8")


def text_of(page: str, name: str) -> list[str]:
    """The blocks of code below a name's heading."""
    _, _, after = page.partition(f'id="{name}"')
    section, _, _ = after.partition('<div class="doc doc-object')
    blocks = re.findall(r"<pre>(.*?)</pre>", section, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", block)) for block in blocks]


def test_signatures_in_the_reference_say_what_is_async(reference_page: str) -> None:
    assert text_of(reference_page, "taquba_jobs.JobRunner.submit")[0].startswith("async submit(")
    assert text_of(reference_page, "taquba_jobs.JobRunner.handle")[0].startswith("handle(")


def test_an_example_in_the_reference_keeps_its_lines(reference_page: str) -> None:
    signature, example = text_of(reference_page, "taquba_jobs.as_completed")
    assert signature.startswith("async as_completed(")
    assert example.splitlines()[:2] == [
        "async for handle in as_completed(handles):",
        "    try:",
    ]


def test_what_a_function_returns_is_one_item_of_the_reference(reference_page: str) -> None:
    _, _, after = reference_page.partition('id="taquba_jobs.gather"')
    _, _, returned = after.partition("Returns:")
    items, _, _ = returned.partition("</ul>")
    assert items.count("<li") == 1
