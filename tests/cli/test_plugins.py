"""Commands that other distributions add. They are installed for real, in a folder of the test."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from distributions import DISTRIBUTIONS
from taquba._cli.app import run
from tests.cli.support import Result, Taquba, environment, finish, start

GOOD = """
from taquba.cli import AsJson, Store, command, group, print_json, reading, say

app = group("Count what there is.")

@command(app, "queues", "taquba count queues -s ./data")
async def queues(store: Store, as_json: AsJson = False) -> None:
    "Count the queues."
    async with reading(store) as reader:
        count = len(await reader.list_queues())
    print_json({"queues": count}) if as_json else say(f"{count} queues")

@command(app, "fail", "taquba count fail")
async def fail() -> None:
    "Fail as a library call does."
    from taquba import JobNotFound
    raise JobNotFound("x")
"""
BROKEN = "import not_installed_anywhere\n"


class Site:
    """A folder that a child process finds distributions in."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder = folder
        self._store = store

    def install(self, name: str, source: str, **commands: str) -> None:
        module = name.replace("-", "_")
        (self._folder / f"{module}.py").write_text(source)
        info = self._folder / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        points = "".join(f"{command} = {module}:{what}\n" for command, what in commands.items())
        (info / "entry_points.txt").write_text(f"[taquba.cli]\n{points}")

    def run(self, *arguments: str) -> Result:
        variables = environment(PYTHONPATH=str(self._folder), TAQUBA_STORE=str(self._store))
        return finish(start(*arguments, env=variables))


@pytest.fixture
def site(tmp_path: Path, store: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, store)


def test_a_distribution_adds_a_command(site: Site) -> None:
    site.install("acme-count", GOOD, count="app")
    shown = site.run("--help")
    assert "\n  count     Count what there is.\n" in shown.out
    assert shown.err == ""
    assert site.run("count", "queues").out == "2 queues\n"
    assert site.run("count", "queues", "--json").document == {"queues": 2}
    assert "Examples:\n    taquba count queues" in site.run("count", "queues", "--help").out


def test_errors_in_an_added_command_end_as_those_of_taquba_do(site: Site) -> None:
    site.install("acme-count", GOOD, count="app")
    failed = site.run("count", "fail")
    assert (failed.code, failed.out) == (4, "")
    assert failed.err.startswith("taquba: no job with id 'x'")
    mistyped = site.run("count", "queue")
    assert mistyped.code == 2
    assert "Did you mean 'queues'?" in mistyped.err


def test_a_broken_command_names_its_distribution_and_breaks_no_other(site: Site) -> None:
    site.install("acme-broken", BROKEN, broken="app")
    site.install("acme-count", GOOD, count="app")
    why = "the command 'broken' of acme-broken 1.2 cannot be loaded: ModuleNotFoundError: No module"
    for arguments in (["broken"], ["broken", "list", "--json", "x"], ["broken", "--help"]):
        failed = site.run(*arguments)
        assert (failed.code, failed.out) == (1, "")
        assert failed.err.startswith(f"taquba: {why}")
        assert failed.err.count("\n") == 1
    assert "Traceback" in site.run("--debug", "broken").err
    assert site.run("count", "queues").out == "2 queues\n"
    listing = site.run("--help")
    assert listing.code == 0
    assert "Not available" in listing.out
    assert "Count what there is" in listing.out


def test_an_added_command_is_imported_only_when_it_is_asked_for(site: Site) -> None:
    site.install("acme-loud", "print('imported')\n" + GOOD, count="app")
    assert "imported" not in site.run("queues").out
    assert site.run("count", "queues").out == "imported\n2 queues\n"


def test_an_entry_point_must_be_an_app(site: Site) -> None:
    site.install("acme-odd", "app = 7\n", odd="app")
    failed = site.run("odd")
    assert failed.code == 1
    assert "the command 'odd' of acme-odd 1.2 is not a typer.Typer: 7" in failed.err


def test_two_distributions_with_one_command_name_are_both_named(site: Site) -> None:
    site.install("acme-one", GOOD, count="app")
    site.install("acme-two", GOOD, count="app")
    failed = site.run("count", "queues")
    assert failed.code == 1
    assert "acme-one 1.2 and acme-two 1.2 each add the command 'count'" in failed.err


def test_a_command_of_taquba_is_not_replaced(site: Site) -> None:
    site.install("acme-queues", GOOD, queues="app")
    assert "mail" in site.run("queues").out
    listing = site.run("--help")
    assert listing.err == (
        "taquba: acme-queues 1.2: the command 'queues' is left out, because taquba has one\n"
    )
    assert listing.out.count("\n  queues ") == 1


def test_added_commands_of_this_repository_have_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ours = {one.project["name"] for one in DISTRIBUTIONS}
    points = importlib.metadata.entry_points(group="taquba.cli")
    added = [point.name for point in points if point.dist is not None and point.dist.name in ours]
    assert {"cron", "progress"} <= set(added)
    assert run([]) == 0
    shown = capsys.readouterr().out
    for name in added:
        assert f"\n  {name} " in shown
        assert run([name, "--help"]) == 0
        help = capsys.readouterr().out
        assert f"Usage: taquba {name}" in help
        assert max(map(len, help.splitlines())) <= 80


@pytest.mark.allow_blocking("a command has its event loop for itself")
def test_taquba_itself_imports_no_added_command(taquba: Taquba) -> None:
    import sys

    for name in ("taquba_cron._cli", "taquba_jobs._cli"):
        sys.modules.pop(name, None)
    taquba.ok("queues")
    assert not {"taquba_cron._cli", "taquba_jobs._cli"} & sys.modules.keys()
