"""Read docstrings in the form that this project writes them, and turn them into Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass, field

_SECTIONS = ("Args", "Attributes", "Returns", "Raises")
_ENTRY = re.compile(r"^([\w, *]+): (.*)$")


@dataclass(frozen=True, slots=True)
class Docstring:
    """What a docstring says, as Markdown.

    Attributes:
        summary: Its first paragraph.
        paragraphs: The others that belong to no section.
        sections: Name of a section to its text.
    """

    summary: str
    paragraphs: tuple[str, ...] = ()
    sections: dict[str, str] = field(default_factory=dict)

    def entries(self, section: str) -> dict[str, str]:
        """Return the entries of a section that lists names, each on one line."""
        entries: dict[str, str] = {}
        for line in self.sections.get(section, "").splitlines():
            found = None if line.startswith(" ") else _ENTRY.match(line)
            if found:
                entries[found[1]] = found[2]
            elif entries:
                entries[list(entries)[-1]] += f" {line.strip()}"
        return entries


def read(of: object) -> Docstring:
    """Return the docstring of an object."""
    return parse(inspect.getdoc(of) or "")


def parse(text: str) -> Docstring:
    """Return what a docstring says."""
    prose: list[str] = []
    sections: dict[str, list[str]] = {}
    section = ""
    for line in inspect.cleandoc(text).splitlines():
        heading = line.removesuffix(":")
        if line.endswith(":") and heading in _SECTIONS:
            section = heading
            sections[section] = []
        elif section and (not line or line.startswith(" ")):
            sections[section].append(line)
        else:
            section = ""
            prose.append(line)
    paragraphs = [_markdown(part) for part in "\n".join(prose).strip().split("\n\n") if part.strip()]
    written = {name: _markdown(textwrap.dedent("\n".join(lines)).strip()) for name, lines in sections.items()}
    return Docstring(paragraphs[0] if paragraphs else "", tuple(paragraphs[1:]), written)


def _markdown(text: str) -> str:
    """Write code as Markdown does; an indented paragraph is code as a whole."""
    if all(line.startswith("    ") for line in text.splitlines()):
        return f"```python\n{textwrap.dedent(text)}\n```"
    return text.replace("``", "`")
