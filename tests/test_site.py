"""The documentation site: no warnings, no external resources, all public names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"

pytestmark = pytest.mark.exhaustive  # make docs builds the site, too


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out


class Loaded(HTMLParser):
    """What a browser fetches to show a page; links that a reader may follow are not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        for name in ("src", "srcset", "poster", "data"):
            self.found += [known[name] or ""] if name in known else []
        if tag == "link" and known.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(known.get("href") or "")
        if "mermaid" in (known.get("class") or "").split():  # a script comes for it
            self.found.append("https://unpkg.com/mermaid")


def loaded(page: str) -> list[str]:
    parser = Loaded()
    parser.feed(page)
    styles = re.findall(r"""(?:url\(|@import )\s*["']?([^"')\s]+)""", page)
    return [address for address in (*parser.found, *styles) if re.match(r"(https?:)?//", address)]


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 15
    assert {page.name: found for page in pages if (found := loaded(page.read_text()))} == {}


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<script src="https://unpkg.com/x"></script>', ["https://unpkg.com/x"]),
        ('<link rel="stylesheet" href="//fonts.net/x">', ["//fonts.net/x"]),
        (
            '<style>@import "https://a.b/c"; d {e: url(https://f.g)}</style>',
            ["https://a.b/c", "https://f.g"],
        ),
        ('<img src="https://a.b/c.png">', ["https://a.b/c.png"]),
        ('<pre class="mermaid">', ["https://unpkg.com/mermaid"]),
        ('<a href="https://a.b"></a><img src="c.svg"><link rel="icon" href="d">', []),
    ],
)
def test_the_check_itself(page: str, found: list[str]) -> None:
    assert loaded(page) == found


def test_the_search_index_holds_the_pages(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    for words in ("Choosing a budget", "saec.torch", "tensor train"):
        assert words in index


def test_docstrings_become_links(site: Path) -> None:
    page = (site / "reference" / "saec.html").read_text()
    assert re.search(
        r'href="torch.html#saec.torch.loss_metrics"><code>saec.torch.loss_metrics', page
    )
    assert ":func:" not in page
    assert ":class:" not in page


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda page: page.stem)
def test_the_reference_has_all_public_names(page: Path) -> None:
    module = import_module("saec" if page.stem == "saec" else f"saec.{page.stem}")
    documented = re.findall(r"^(?:::: |`)saec\.(?:\w+\.)*(\w+)", page.read_text(), re.MULTILINE)
    assert set(module.__all__) - set(documented) == set()


def test_the_reference_has_all_public_packages() -> None:
    stems = {page.stem for page in REFERENCE.glob("*.md")}
    assert stems == {"saec", "torch", "onnx", "distributed", "serve"}
