"""The documentation builds without a warning, every page and public name is in it, and no link in it is broken."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from guide_pages import ROOT

DOCS = ROOT / "docs"
MADE = ("_build", "notebooks")
PUBLIC = (
    *("", ".errors", ".config", ".results", ".devices", ".langchain", ".llama_index", ".remote", ".corpus"),
    *(".monitoring", ".evaluation", ".bench", ".testing"),
)
PACKAGE = "flag_rerank_integrations"
# Shared between this package's own modules.
UNDOCUMENTED = {f"{PACKAGE}.results.add", f"{PACKAGE}.results.lives", f"{PACKAGE}.config.DEFAULT_MAX_LENGTH"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; built as scripts/build_docs.sh does it."""
    out = tmp_path_factory.mktemp("site")
    strictly = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "--fresh-env"]
    command = [sys.executable, "-m", "sphinx", "--builder", "html", *strictly, str(DOCS), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return out


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif (name == "href" and tag in ("a", "link")) or name == "src":
                self.links.append(value or "")


@cache
def page_at(path: Path) -> Page:
    """A page, read once."""
    return Page(path)


def sources() -> list[str]:
    """Names of all pages, without their endings."""
    guides = (path.relative_to(DOCS) for path in DOCS.rglob("*.md"))
    names = [path.with_suffix("").as_posix() for path in guides if path.parts[0] not in MADE]
    return sorted([*names, *(f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb"))])


def public_names() -> list[set[str]]:
    """The full names of everything that is public; an object that can be imported from two places has both names."""
    names: dict[int, set[str]] = {}
    for module in map(import_module, (f"{PACKAGE}{part}" for part in PUBLIC)):
        for name in module.__all__:
            names.setdefault(id(getattr(module, name)), set()).add(f"{module.__name__}.{name}")
    return [known - UNDOCUMENTED for known in names.values() if known - UNDOCUMENTED]


def broken(site: Path, page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for link in page_at(page).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        anchor = unquote(parts.fragment)
        known = target.is_file() and target.is_relative_to(site.resolve())
        if not known or (anchor and target.suffix == ".html" and anchor not in page_at(target).ids):
            found.append(link)
    return found


def test_every_page_is_in_the_site(site: Path) -> None:
    assert {"index", "quickstart", "zh/quickstart", "decisions/README", "api/core"} <= set(sources())
    assert [name for name in sources() if not (site / f"{name}.html").is_file()] == []


def test_every_page_has_a_title_and_is_reached_from_the_first(site: Path) -> None:
    start = (site / "index.html").resolve()
    reached, left = {start}, [start]
    while left:
        here = left.pop()
        near = {(here.parent / unquote(urlsplit(link).path)).resolve() for link in page_at(here).links}
        new = {page for page in near if page.suffix == ".html" and page.is_file()} - reached
        reached |= new
        left += new
    missing = [name for name in sources() if (site / f"{name}.html").resolve() not in reached]
    assert missing == []


def test_every_public_name_is_documented(site: Path) -> None:
    documented = set().union(*(page_at(path).ids for path in (site / "api").glob("*.html")))
    assert len(public_names()) > 30
    assert [names for names in public_names() if names.isdisjoint(documented)] == []


def test_no_link_is_broken(site: Path) -> None:
    pages = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    assert len(pages) >= len(sources())
    assert {str(page.relative_to(site)): links for page in pages if (links := broken(site, page))} == {}
