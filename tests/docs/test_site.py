"""The site is built without a warning, leads to every page, and loads nothing from anywhere."""

import importlib.util
import re
import subprocess
import sys

import pytest

from .page import DOCS

ROOT = DOCS.parent
#: Where a browser would fetch something from without being asked; links for people are none of it.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|audio|video)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?![^>]*\brel=["']?(?:canonical|next|prev))[^>]*\bhref=["']?(?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    # With --quiet mkdocs would not count its warnings, and --strict would mean nothing.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def nav():
    """The module that puts pages in the place of patterns."""
    spec = importlib.util.spec_from_file_location("site_nav", ROOT / "tools" / "site_nav.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_there_and_led_to(site):
    pages = [path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")]
    front = (site / "index.html").read_text()

    assert len(pages) > 20
    assert [page for page in pages if not (site / page).exists()] == []
    assert [page for page in pages if page != "index.html" and f'href="{page}"' not in front] == []


def test_make_builds_it_with_every_warning_an_error():
    done = subprocess.run(
        ["make", "--dry-run", "docs"], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )

    assert "mkdocs build --strict" in done.stdout


def test_nothing_is_loaded_from_anywhere(site):
    files = [path for kind in ("html", "css") for path in site.rglob(f"*.{kind}")]

    assert len(files) > 20
    found = {path.relative_to(site).as_posix(): LOADED.findall(path.read_text()) for path in files}
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.org/x.js">',
        "<img alt=x src=//example.org/x.png>",
        '<link rel="stylesheet" href="https://example.org/x.css">',
        "@import url(https://example.org/x.css)",
        "src: url('https://example.org/x.woff2')",
    ],
)
def test_what_is_loaded_would_be_found(text):
    assert LOADED.search(text)


@pytest.mark.parametrize(
    "text",
    ['<a href="https://example.org">', '<link rel="canonical" href="https://example.org/">', "src=x.js"],
)
def test_what_is_not_loaded_is_not_found(text):
    assert not LOADED.search(text)


def test_a_pattern_stands_for_the_pages_that_match(nav, tmp_path):
    for name in ("rules/E-SPAN.md", "rules/E-ARG.md", "rules/index.md", "plain.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# page\n")
    entries = [
        "plain.md",
        "none-*.md",
        {"Rules": "rules/*.md"},
        {"Nothing": "gone/*.md"},
        {"Section": ["missing.md", {"Below": ["gone/*.md"]}]},
        {"Title": "plain.md"},
    ]

    assert list(nav.expanded(entries, tmp_path)) == [
        "plain.md",
        {"Rules": ["rules/index.md", "rules/E-ARG.md", "rules/E-SPAN.md"]},
        # Without a *, it is left to mkdocs to find that it is missing.
        {"Section": ["missing.md"]},
        {"Title": "plain.md"},
    ]
