"""A hook of mkdocs: an entry of the navigation with a ``*`` stands for the pages that match it.

Pages of one kind, such as those of the rules of compatibility, come and go one by
one; what must name each of them is the page that tells of them, not the site. A
page that the navigation names without a ``*`` has to exist: mkdocs sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are there in the place of each pattern."""
    config.nav = list(expanded(config.nav or [], Path(config.docs_dir)))
    return config


def expanded(entries: list[Any], folder: Path) -> Iterator[Any]:
    """Yield the entries of a navigation; a section without a page is left out.

    Args:
        entries: As mkdocs.yml has them: a path, or a title with a path or with entries of its own.
        folder: The pages.
    """
    for entry in entries:
        if isinstance(entry, str):
            yield from _pages(entry, folder)
            continue
        ((title, below),) = entry.items()
        if isinstance(below, str) and "*" not in below:
            yield entry
        elif pages := list(expanded([below] if isinstance(below, str) else below, folder)):
            yield {title: pages}


def _pages(path: str, folder: Path) -> list[str]:
    if "*" not in path:
        return [path]
    found = [page.relative_to(folder).as_posix() for page in folder.glob(path)]
    # A section begins with its own page.
    return sorted(found, key=lambda page: (not page.endswith("index.md"), page))
