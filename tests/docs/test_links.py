"""What pages outside the site link to is there; of those inside, the site's own build sees to it."""

import re

import pytest

from .page import DOCS

ROOT = DOCS.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def anchors(text):
    """Return the anchors of a page, as its headings make them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path):
    """Return the links of a page that lead nowhere in this clone."""
    text = path.read_text()
    found = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        there = path.parent / target if target else path
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            found.append(link)
    return found


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))], ids=str
)
def test_links_lead_somewhere(path):
    assert broken(path) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# A `page`, really\n\n```\n# none\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-page-really) [c](#here) [d](https://example.org) `[x](y.md)`\n"
        "[e](gone.md) [f](there.md#gone) [g](#gone) [h](there.md#none)\n\n## Here\n"
    )

    assert broken(page) == ["gone.md", "there.md#gone", "#gone", "there.md#none"]
