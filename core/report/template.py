"""Pages from the templates of this folder: self-contained, and all text in them escaped."""

from __future__ import annotations

from importlib import resources
from typing import Any

from . import formats


def fill(template: str, /, **values: Any) -> str:
    """Return a page.

    Names and messages come from plugins and folders that nobody needs to trust: everything is escaped but
    what ``chart`` is called with in a template, which ``charts.py`` makes and escapes.

    Args:
        template: Its file, which extends ``frame.html``.
        values: What it shows.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 - only a report needs it
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mib": formats.mib,
        "duration": formats.duration,
        "number": formats.number,
        "moment": formats.moment,
        "words": formats.words,
    }
    css = Markup(_read("report.css"))  # noqa: S704 - our own file
    return environment.get_template(template).render(css=css, chart=Markup, **values)


def _read(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
