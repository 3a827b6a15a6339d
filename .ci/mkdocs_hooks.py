"""Makes links that lead out of docs/ work on the documentation's site, and long names fit tables.

The same files are read on the site and in the repository, where they may link to the README, to
tests and to examples. Each such file becomes a page of the site: Markdown as it is, anything else
as a listing. A link to what does not exist stays as it is, and fails the strict build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


def _place(path: str) -> str:
    """Where a file of the repository is on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path if path.endswith('.md') else path + '.md'}"


def _targets(path: str, markdown: str) -> dict[str, str]:
    """What a page links to outside of docs/, as written, with its path from the root."""
    found: dict[str, str] = {}
    for match in _LINK.finditer(_FENCE.sub("", markdown)):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        if (ROOT / target).is_file():
            found[match[1]] = target
    return found


def _relinked(path: str, markdown: str) -> str:
    """The page's text, with links as they are on the site."""
    targets = _targets(path, markdown)
    here = posixpath.dirname(_place(path)) or "."

    def moved(match: re.Match[str]) -> str:
        target = targets.get(match[1])
        if target is None:
            return match[0]
        return posixpath.relpath(_place(target), here) + (match[2] or "")

    done, text = 0, ""
    for fence in _FENCE.finditer(markdown):  # code is left alone
        text += _LINK.sub(moved, markdown[done : fence.start()]) + fence[0]
        done = fence.end()
    return text + _LINK.sub(moved, markdown[done:])


def _listing(path: str) -> str:
    language = {".py": "python", ".toml": "toml", ".txt": "text"}.get(Path(path).suffix, "text")
    return f"# {path}\n\n`````{language}\n{(ROOT / path).read_text('utf-8')}\n`````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to, and those that these link to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    for path in waiting:
        if not path.endswith(".md"):
            continue
        for target in _targets(path, (ROOT / path).read_text("utf-8")).values():
            if target in seen or target.startswith("docs/"):
                continue
            seen.add(target)
            waiting.append(target)
            text = (
                _relinked(target, (ROOT / target).read_text("utf-8"))
                if target.endswith(".md")
                else _listing(target)
            )
            page = File.generated(
                config, _place(target), content=text, inclusion=InclusionLevel.NOT_IN_NAV
            )
            files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to the pages that stand for their targets."""
    if page.file.generated_by is not None:
        return markdown
    return _relinked(f"docs/{page.file.src_uri}", markdown)


_CELL = re.compile(r"(?<=<td).*?(?=</td>)", re.DOTALL)
_CODE = re.compile(r"(?<=<code>)[^<]*")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let names in tables be broken where they have joints."""
    return _CELL.sub(lambda cell: _CODE.sub(_breakable, cell[0]), html)


def _breakable(code: re.Match[str]) -> str:
    return re.sub(r"(?<=\w)([_/.])(?=\w)", r"\1<wbr>", code[0])


_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*\ssrc=[\"'](?:https?:)?//[^\"']*"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect)[^>]*(?:https?:)?//[^>]*"
)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would fetch something from a network when it is looked at."""
    if found := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} fetches from a network: {found[0]}")
    return output
