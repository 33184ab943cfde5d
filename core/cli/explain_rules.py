"""``ringfence plugins explain``: the pages on the rules of a check, without their links."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ..hooks.errors import JobError
from ..job.problems import suggest

_INDEX = "index"
#: A link to another page, which a terminal cannot follow.
_LINK = re.compile(r"\[([^\]]+)\]\([^)\s]+\.md(?:#[^)\s]*)?\)")


def pages(rules: Sequence[str]) -> str:
    """Return the pages of ``rules``, or the table of all rules.

    Raises:
        JobError: There is no such rule.
    """
    folder = Path(str(files("ringfence._rules")))
    known = sorted(path.stem for path in folder.glob("*.md") if path.stem != _INDEX)
    asked = [rule.upper() for rule in rules]
    unknown = [f"there is no rule '{rule}'; {suggest(rule, known)}" for rule in asked if rule not in known]
    if unknown:
        raise JobError("\n".join(unknown))
    texts = [(folder / f"{name}.md").read_text(encoding="utf-8") for name in asked or [_INDEX]]
    return "\n".join(_LINK.sub(r"\1", text) for text in texts)
